"""The base classes and tools for extensions outside the package.

To add an activation, an operator, a pre-activation rule, a Jacobian method, a norm method, a proof of radius, a
brancher or a planner, derive a frozen dataclass from one of these.  It then works like the classes of the package.
`recurjac.testing` has the package's own checks for such classes; docs/extending.md is a tutorial.
"""

from __future__ import annotations

from recurjac.activations import AbstractActivation
from recurjac.activations.base import within
from recurjac.activations.clamp import AbstractClamp
from recurjac.activations.convex import AbstractConcave, AbstractConvex
from recurjac.activations.curved import AbstractCurved
from recurjac.activations.smooth import AbstractSmooth
from recurjac.applications.proofs import AbstractRadiusProof, MarginBalls, RadiusFacts
from recurjac.arithmetic import AbstractArithmetic, Ball, Enclosure, Interval
from recurjac.auto import STEPS, AbstractStep, NormStep, RangeStep
from recurjac.branching import AbstractBound, AbstractBrancher
from recurjac.jacobian import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared, AbstractRecursion, Gradients
from recurjac.norms import AbstractNormMethod, AbstractRowSum, NormBound
from recurjac.norms.induced import vector_norm
from recurjac.operators import AbstractOperator, Gather, Reshape, compose
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.gather import gather
from recurjac.preactivation import AbstractLineRule, AbstractPreactivation, PreactivationState
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, DenseForms, Units
from recurjac.propagation.planning import AbstractPlanner, Thresholds
from recurjac.registry import Expression, onnx_ops, torch_ops
from recurjac.relaxations import LinearRelaxation

__all__ = [
    "AbstractActivation", "AbstractArithmetic", "AbstractBound", "AbstractBrancher", "AbstractClamp",
    "AbstractConcave", "AbstractConvex", "AbstractCurved", "AbstractJacobianMethod", "AbstractLeaf",
    "AbstractLineRule", "AbstractNodewise", "AbstractNormMethod", "AbstractOperator", "AbstractPlanner",
    "AbstractPreactivation", "AbstractPrepared", "AbstractRadiusProof", "AbstractRecursion", "AbstractRowSum",
    "AbstractSeeds", "AbstractSmooth", "AbstractStep", "Ball", "ChainRule", "compose", "DenseForms", "Enclosure",
    "Expression", "gather", "Gather", "Gradients", "Interval", "LinearRelaxation", "MarginBalls", "NormBound",
    "NormStep", "onnx_ops", "PreactivationState", "RadiusFacts", "RangeStep", "Reshape", "STEPS", "Thresholds",
    "torch_ops", "Units", "vector_norm", "within",
]  # fmt: skip
