"""A model in the browser: from where it is seen, how fine, in which layer; camera paths by hand."""
