"""What a device is, and what training may take of it."""
