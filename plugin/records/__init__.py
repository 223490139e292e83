"""What becomes of a record: bytes in, bytes out. No descriptor, no thread, no clock."""
