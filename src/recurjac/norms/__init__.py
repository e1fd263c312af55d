"""Upper bounds of induced norms of a Jacobian: one norm method a file."""

from __future__ import annotations

from recurjac.errors import expect
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.norms.base import AbstractNormMethod, NormBound, check_norm, check_supported
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.induced import induced_norm
from recurjac.norms.product import ProductOfNorms
from recurjac.norms.row_sums import AbstractRowSum, ChordSum, PlainSum, SignSum
from recurjac.norms.tightest import TightestNorm

__all__ = [
    "AbstractNormMethod", "AbstractRowSum", "ChordSum", "JacobianNorm", "NormBound", "PlainSum", "ProductOfNorms",
    "SignSum", "TightestNorm", "as_norm_method", "check_norm", "check_supported", "default_norm_method",
    "induced_norm",
]  # fmt: skip


def default_norm_method(p: float) -> AbstractNormMethod:
    """The best that the library has for inputs in the p-norm.

    For p = 2 the product of spectral norms can be below norms of entry-wise bounds; for p = 1 and inf it cannot, as
    interval products are never above it.
    """
    return TightestNorm(JacobianNorm(), ProductOfNorms()) if p == 2 else JacobianNorm()


def as_norm_method(method: AbstractJacobianMethod | AbstractNormMethod) -> AbstractNormMethod:
    """`method` as a bound of norms: a Jacobian method through its entries.  Raises InvalidRequest for anything else."""
    expect(method, (AbstractJacobianMethod, AbstractNormMethod), "the method", "give an object such as Chords()")
    return method if isinstance(method, AbstractNormMethod) else JacobianNorm(method)
