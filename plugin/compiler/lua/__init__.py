"""A policy as a Lua script, which Fluent Bit runs as a filter."""
