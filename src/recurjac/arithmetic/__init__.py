"""Intervals, balls (midpoint and radius), and the two arithmetics: all handling of rounding is in this package.

The truth is the stored network's operations in real arithmetic.  For any order of summation, with or without fused
multiply-adds, a product computed in working precision satisfies

    |fl(W c) - W c|  <=  gamma_n |W| |c| + n eta,      gamma_n = n u / (1 - n u)

(Higham, Accuracy and Stability of Numerical Algorithms, ch. 3), where u is the unit roundoff.  eta is the smallest
*normal* number, so that products that are flushed to zero are covered.  Sums of two numbers never underflow, as long as
subnormal numbers exist (`check_matmul`).  Sums of non-negative numbers are computed with a relative error of at most
gamma.  Therefore every radius below is computed from non-negative terms and then increased by `grow`.  Coefficients of
linear forms have no radius; forms pay for their rounding (`absorbed.py`).

Source: docs/mathematics.md, §8.
"""

from recurjac.arithmetic.absorbed import Charges, Loss, Sizes, paid, radius_beside
from recurjac.arithmetic.ball import (
    Ball,
    LinearMap,
    concatenate,
    nonnegative_sum,
    rows_times,
    summed,
)
from recurjac.arithmetic.base import MEMORY, AbstractArithmetic
from recurjac.arithmetic.definite import (
    BlockTridiagonal,
    is_psd,
    largest_eigenvalue,
    least_eigenvalue,
    root_up,
    spectral_norm,
)
from recurjac.arithmetic.deployed import Deployed
from recurjac.arithmetic.enclosure import Enclosure
from recurjac.arithmetic.in_place import (
    Signed,
    Slopes,
    around_,
    plus_and_minus_,
    plus_at_,
    plus_entries_,
    plus_matmul_,
    shares_memory,
)
from recurjac.arithmetic.interval import Interval, MoveTensor, no_nan
from recurjac.arithmetic.kinds import Conditional, Fast, Rigorous
from recurjac.arithmetic.lanczos import Eigenpair, largest_eigenpair
from recurjac.arithmetic.lengths import length_of
from recurjac.arithmetic.platform import check_convolution, check_matmul, round_to, round_up_to, supported_dtype
from recurjac.arithmetic.rounding import growth_of, has_subnormal, least_nonzero, root_of, with_derivative_of

__all__ = [
    "AbstractArithmetic",
    "BlockTridiagonal",
    "Charges",
    "Deployed",
    "Eigenpair",
    "Conditional",
    "Enclosure",
    "Fast",
    "Interval",
    "LinearMap",
    "Loss",
    "MEMORY",
    "MoveTensor",
    "Rigorous",
    "Signed",
    "Sizes",
    "Slopes",
    "Ball",
    "around_",
    "check_convolution",
    "check_matmul",
    "concatenate",
    "growth_of",
    "has_subnormal",
    "is_psd",
    "largest_eigenpair",
    "largest_eigenvalue",
    "least_eigenvalue",
    "no_nan",
    "least_nonzero",
    "length_of",
    "nonnegative_sum",
    "paid",
    "plus_and_minus_",
    "plus_at_",
    "plus_entries_",
    "plus_matmul_",
    "root_of",
    "radius_beside",
    "root_up",
    "round_to",
    "round_up_to",
    "rows_times",
    "shares_memory",
    "spectral_norm",
    "summed",
    "supported_dtype",
    "with_derivative_of",
]
