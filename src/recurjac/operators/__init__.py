"""Linear operators: dense, re-indexing, scaling and their compositions; one family a file."""

from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import Compose, compose
from recurjac.operators.dense import Dense
from recurjac.operators.reindex import Identity, Reshape
from recurjac.operators.scale import Scale

__all__ = ["AbstractLeaf", "AbstractOperator", "Compose", "Dense", "Identity", "Reshape", "Scale", "compose"]
