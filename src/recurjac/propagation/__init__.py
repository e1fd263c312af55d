"""How linear forms are propagated: routes, the sweep, the chain rule of a Jacobian, and its exact skeletons."""
