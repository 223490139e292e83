"""Everything that touches a log agent: framing, the exec filter, the command line."""
