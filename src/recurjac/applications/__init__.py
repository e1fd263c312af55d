"""Applications of Jacobian bounds, one in each file: a typed function that returns one frozen result."""
