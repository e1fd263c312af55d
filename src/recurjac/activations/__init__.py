"""Activations: what each one states, one family a file."""

from recurjac.activations.base import AbstractActivation
from recurjac.activations.convex import Softplus
from recurjac.activations.elu import ELU
from recurjac.activations.identity import Linear
from recurjac.activations.sigmoidal import Arctan, Sigmoid, Tanh
from recurjac.activations.two_piece import LeakyReLU, PReLU, ReLU

__all__ = [
    "AbstractActivation", "Arctan", "ELU", "LeakyReLU", "Linear", "PReLU", "ReLU", "Sigmoid", "Softplus", "Tanh",
]  # fmt: skip
