"""A scenario's faults made real: a proxy between agents and broker, and processes that are killed."""
