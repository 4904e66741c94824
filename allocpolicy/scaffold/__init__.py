"""A distribution with a strategy, to start from: written by ``strategy new``."""
