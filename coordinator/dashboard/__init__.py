"""The web page of a coordinator: what the fleet does now, and the same as JSON and metrics."""
