"""Where a device's samples come from when it learns from a stream."""
