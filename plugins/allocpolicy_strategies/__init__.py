"""The bundled strategies; they use the public facade only, as anybody's do."""
