"""Activations and the properties that bounds need of them; one file for each family."""

from recurjac.activations.base import AbstractActivation
from recurjac.activations.bends import curvature_lines
from recurjac.activations.clamp import HardTanh, ReLU6
from recurjac.activations.convex import CELU, Exp, LogCosh, LogSigmoid, Softplus, Square, SquaredReLU
from recurjac.activations.cuts import cuts_of
from recurjac.activations.derivative import Derivative, slope_lines, value_lines
from recurjac.activations.domain import IntegerPower, Length, Log, Power, Reciprocal
from recurjac.activations.elu import ELU, SELU
from recurjac.activations.floored import FlooredPower
from recurjac.activations.gated import GELU, Mish, SiLU
from recurjac.activations.gelu_tanh import GELUTanh
from recurjac.activations.hard_swish import HardSwish
from recurjac.activations.identity import Identity
from recurjac.activations.normalised_rows import NormalisedRows
from recurjac.activations.periodic import Cos, Sin
from recurjac.activations.power import Cube
from recurjac.activations.product import Factor, FactorOver
from recurjac.activations.rows import AbstractRowFunction, LengthRows, SoftmaxRows
from recurjac.activations.shrunk_rows import FlooredRows, ShiftedRows
from recurjac.activations.sigmoidal import Arctan, Erf, Sigmoid, Softsign, Tanh
from recurjac.activations.two_piece import Abs, LeakyReLU, PReLU, ReLU

__all__ = [
    "CELU", "ELU", "GELU", "SELU", "Abs", "AbstractActivation", "AbstractRowFunction", "Arctan", "Cos", "Cube",
    "Derivative", "Erf", "Exp", "Factor", "FactorOver", "FlooredPower", "FlooredRows", "GELUTanh", "HardSwish",
    "HardTanh", "Identity", "IntegerPower", "LeakyReLU", "Length", "LengthRows", "Log", "LogCosh", "LogSigmoid",
    "Mish", "NormalisedRows", "PReLU", "Power", "ReLU", "ReLU6", "Reciprocal", "ShiftedRows", "SiLU", "Sigmoid",
    "Sin", "SoftmaxRows", "Softplus", "Softsign", "Square", "SquaredReLU", "Tanh", "curvature_lines", "cuts_of",
    "slope_lines", "value_lines",
]  # fmt: skip
