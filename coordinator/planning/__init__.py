"""Planning: what a fleet should run, chosen by short simulations of that fleet before the roll-out."""
