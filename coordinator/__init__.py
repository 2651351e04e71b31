"""Rounds, aggregation, twins, simulator, store, dashboard, broker, command line."""
