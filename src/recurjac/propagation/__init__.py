"""How linear forms travel: routes, the one sweep, the chain rule of a Jacobian, and its exact skeletons."""
