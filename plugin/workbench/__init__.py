"""Prints what ``filter_engine.analysis`` found."""
