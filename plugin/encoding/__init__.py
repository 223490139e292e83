"""MessagePack and JSON, one level at a time. Knows no audit event."""
