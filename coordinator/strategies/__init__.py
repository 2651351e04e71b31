"""The coordinator halves of the strategies."""
