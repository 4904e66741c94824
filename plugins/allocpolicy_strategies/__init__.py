"""The bundled strategies; like any others, they use the public facade only."""
