"""Opening the images that exist, once, and checking them."""
