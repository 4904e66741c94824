"""The command line: one module a command, with cliff's formats of output."""
