"""The engine of NumPy alone: a ModelGraph interpreted, each operator with its backward pass."""
