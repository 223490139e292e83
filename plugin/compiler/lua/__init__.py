"""Compiles a policy to a Lua script, which Fluent Bit runs as a filter."""
