"""Opening existing images, once, and checking them."""
