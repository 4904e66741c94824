"""The JSON Schemas (draft 2020-12) of what allocpolicy reads and writes: data only."""
