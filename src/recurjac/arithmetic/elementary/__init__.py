"""Elementary functions with proved enclosures: sums, products and quotients are all that is assumed to be right.

Each takes a float32 or float64 tensor of any shape, whose numbers are exact, and returns an `Interval` of the same
dtype that contains the true values and is a few units of the last place wide, also where they are small, subnormal or
huge. At infinite arguments these are the limits; at NaN, the interval is the whole line.  No derivative is recorded.
`increasing` and `decreasing` make of a monotone one its range over intervals.

Source: docs/mathematics.md, §8.2.
"""

from recurjac.arithmetic.elementary.circular import atan, cos, sin
from recurjac.arithmetic.elementary.enclosing import decreasing, increasing
from recurjac.arithmetic.elementary.exponential import exp, expm1, logistic, sigmoid, tanh
from recurjac.arithmetic.elementary.logarithm import log, log1p, log_cosh, softplus
from recurjac.arithmetic.elementary.normal import erf, erfc, gaussian, normal_density, normal_distribution
from recurjac.arithmetic.elementary.roots import power, sqrt

__all__ = [
    "atan",
    "cos",
    "decreasing",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "gaussian",
    "increasing",
    "log",
    "log1p",
    "log_cosh",
    "logistic",
    "normal_density",
    "normal_distribution",
    "power",
    "sigmoid",
    "sin",
    "softplus",
    "sqrt",
    "tanh",
]
