"""Finding, loading and calling strategies."""
