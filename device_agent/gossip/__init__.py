"""Learning from streams, with prototypes told to neighbours."""
