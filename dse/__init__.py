"""The offline search for Pareto-optimal dropout vectors."""
