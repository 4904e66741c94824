"""Which strategies there are, and calling them."""
