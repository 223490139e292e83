"""Where records begin and end in a stream of bytes."""
