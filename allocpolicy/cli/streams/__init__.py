"""The standard streams: one has the result alone, the other what is said beside it."""
