"""The command line, one module a command. Nothing else knows click."""
