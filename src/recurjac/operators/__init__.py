"""Linear operators: dense, convolution, moving and summing, scaling, and compositions; one file for each family."""

from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import Compose, compose
from recurjac.operators.convolution import Convolution, TransposedConvolution
from recurjac.operators.cumulative import CumulativeSum
from recurjac.operators.dense import Dense
from recurjac.operators.gather import Gather
from recurjac.operators.reindex import Identity, Negate, Reshape
from recurjac.operators.scale import Divide, Scale, Standardise

__all__ = [
    "AbstractLeaf", "AbstractOperator", "Compose", "Convolution", "CumulativeSum", "Dense", "Divide", "Gather",
    "Identity", "Negate", "Reshape", "Scale", "Standardise", "TransposedConvolution", "compose",
]  # fmt: skip
