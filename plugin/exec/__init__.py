"""The exec filter: records from stdin to stdout, as a child of an agent or in a shell pipe."""
