"""The record of who changed what: one line for each change, and where it goes."""
