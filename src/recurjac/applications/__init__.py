"""What follows from bounds of the Jacobian: one typed function and one frozen result each."""
