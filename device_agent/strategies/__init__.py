"""The device halves of the strategies."""
