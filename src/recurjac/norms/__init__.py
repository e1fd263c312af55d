"""Upper bounds of induced norms of a Jacobian, with one norm method in each file."""

from __future__ import annotations

from recurjac.errors import expect
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.norms.base import AbstractNormMethod, NormBound, check_norm, check_supported
from recurjac.norms.corners import CornerNorm
from recurjac.norms.coupled import CoupledNorm
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.induced import induced_norm
from recurjac.norms.linear_network import LinearNetworkNorm
from recurjac.norms.product import ProductOfNorms
from recurjac.norms.quadratic import QuadraticNorm
from recurjac.norms.row_sums import AbstractRowSum, ChordSum, PatternSum, PlainSum, SignSum
from recurjac.norms.split import SplitNorm
from recurjac.norms.tightest import TightestNorm
from recurjac.norms.turned import TurnedNorm

__all__ = [
    "AbstractNormMethod", "AbstractRowSum", "ChordSum", "CornerNorm", "CoupledNorm", "JacobianNorm",
    "LinearNetworkNorm", "NormBound", "PatternSum", "PlainSum", "ProductOfNorms", "QuadraticNorm", "SignSum",
    "SplitNorm", "TightestNorm", "TurnedNorm", "as_norm_method", "check_norm", "check_supported",
    "default_norm_method", "induced_norm",
]  # fmt: skip


def default_norm_method(p: float) -> AbstractNormMethod:
    """The tightest norm method of the library for the p-norm of the inputs.

    For p = 2, the product of spectral norms can be less than the norm of the entry-wise bounds.  For p = 1 and inf it
    cannot, because interval products never exceed it.
    """
    return TightestNorm(JacobianNorm(), ProductOfNorms()) if p == 2 else JacobianNorm()


def as_norm_method(method: AbstractJacobianMethod | AbstractNormMethod) -> AbstractNormMethod:
    """`method` as a norm method; a Jacobian method is used through its entries.  Raises InvalidRequest for others."""
    expect(method, (AbstractJacobianMethod, AbstractNormMethod), "the method", "give an object such as Chords()")
    return method if isinstance(method, AbstractNormMethod) else JacobianNorm(method)
