"""Learning from neighbours: the device half of decentralised methods."""
