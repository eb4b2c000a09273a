"""Files that render alone: written, checked and read, and what executes them."""
