"""Smaller updates: number formats of fewer bits, and fewer numbers."""
