"""Engines compute losses and gradients of a ModelGraph; nothing else."""
