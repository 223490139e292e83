"""MessagePack and JSON, one level at a time. Nothing here knows what an audit event is."""
