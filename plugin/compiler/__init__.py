"""Compilers of policies to other languages. Each target is a package."""
