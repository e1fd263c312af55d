"""Upper bounds of induced norms of a Jacobian, with one norm method in each file."""

from __future__ import annotations

from recurjac.errors import expect
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.norms.base import AbstractNormMethod, NormBound, check_norm, check_supported
from recurjac.norms.corners import CornerNorm
from recurjac.norms.coupled import CoupledNorm
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.induced import induced_norm
from recurjac.norms.product import ProductOfNorms
from recurjac.norms.quadratic import QuadraticNorm
from recurjac.norms.row_sums import AbstractRowSum, ChordSum, PlainSum, SignSum
from recurjac.norms.split import SplitNorm
from recurjac.norms.tightest import TightestNorm

__all__ = [
    "AbstractNormMethod", "AbstractRowSum", "ChordSum", "CornerNorm", "CoupledNorm", "JacobianNorm", "NormBound",
    "PlainSum", "ProductOfNorms", "QuadraticNorm", "SignSum", "SplitNorm", "TightestNorm", "as_norm_method",
    "check_norm", "check_supported", "default_norm_method", "induced_norm",
]  # fmt: skip
