"""The command line: one module a command group; the only room that knows all the others."""
