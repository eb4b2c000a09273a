"""How a trained field becomes a small one: trained through its rounding, and written."""
