"""What follows from bounds of Jacobians: one application a file, a typed function that returns one frozen result."""
