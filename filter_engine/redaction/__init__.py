"""Redaction: what of an event nobody behind the filter is to see. docs/redaction.md is its reference."""
