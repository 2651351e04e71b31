"""Measurements against a named peer or limit; not installed with the package."""
