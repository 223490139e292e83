"""A generated audit log, the demonstration that runs on it, and the measurements the README quotes."""
