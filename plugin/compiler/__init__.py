"""A policy in another language. Each target is a package."""
