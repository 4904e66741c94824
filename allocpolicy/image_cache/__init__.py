"""Converted copies of foreign base images, and who uses them."""
