"""The package's own property checks, for classes outside the package; each raises AssertionError with the failure.

check_activation, check_operator     an activation, a linear layer
check_preactivation                  a rule for pre-activations
check_jacobian_method                a method for entries of the Jacobian
check_norm_method                    a method for norms
check_radius_proof                   a proof of a certified radius
check_brancher                       a way to divide problems

They need no test framework.  They compare bounds with sampled true values on small random networks.  Passing them is
therefore no proof, but a failure is a counterexample.
"""

from __future__ import annotations

from recurjac.testing.layers import check_activation, check_operator
from recurjac.testing.methods import (
    check_brancher,
    check_jacobian_method,
    check_norm_method,
    check_preactivation,
    check_radius_proof,
    problems,
)
from recurjac.testing.networks import random_network, true_jacobians

__all__ = [
    "check_activation", "check_brancher", "check_jacobian_method", "check_norm_method", "check_operator",
    "check_preactivation", "check_radius_proof", "problems", "random_network", "true_jacobians",
]  # fmt: skip
