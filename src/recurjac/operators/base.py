"""The interface of a linear operator, and the methods that follow from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Sizes, has_subnormal, least_nonzero
from recurjac.operators.spectral import spectral_norm


class AbstractOperator(ABC):
    """A linear map A from tensors of shape `in_shape` to `out_shape`, with any leading dimensions."""

    @property
    @abstractmethod
    def in_shape(self) -> Shape: ...

    @property
    @abstractmethod
    def out_shape(self) -> Shape: ...

    @abstractmethod
    def push(self, value: Ball) -> Ball:
        """A applied to a value of shape (..., *in_shape), with its rounding error."""

    def absorb(self, sizes: Sizes) -> Sizes:
        """What its rounding costs forms that it is applied to, from what those of its results cost (`Sizes.before`).

        Unless a class says what, forms that it is applied to pay infinity.
        """
        lead = sizes.numbers.shape[: sizes.numbers.dim() - len(self.out_shape)]
        return Sizes(sizes.numbers.new_full((*lead, *self.in_shape), torch.inf), sizes.roundings + 1, sizes.lost)

    @abstractmethod
    def transpose(self) -> AbstractOperator:
        """The operator Aᵀ."""

    def taking(self, shape: Shape) -> Self | None:
        """The same map on tensors of `shape` with the same row-major entries; None if the map depends on the shape."""
        return None

    def giving(self, shape: Shape) -> Self | None:
        """The same map with results of `shape`; like `taking`."""
        return None

    @property
    def local(self) -> bool:
        """Whether each output depends only on a few inputs near it, as in a convolution."""
        return False

    def unproved_rounding(self, dtype: torch.dtype, device: torch.device) -> str | None:
        """Why products with this operator currently do not cover rounding; None if they do."""
        return None

    @abstractmethod
    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball:
        """A applied to unit tensors: the columns at the flat positions `index`, (...,) -> (..., *out_shape)."""

    @abstractmethod
    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        """The operator that computes only the outputs at the flat positions `index`, and the positions that it reads.

        Both lists of positions are in ascending order.  The operator maps vectors (read,) to vectors (index,).  It may
        read more positions than the outputs depend on, which only takes longer.
        """

    @abstractmethod
    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """An upper bound of ‖A‖_{p→p}, p in {1, 2, inf}: a scalar.

        Rigorous arithmetic covers rounding; for p = 2, any arithmetic covers it.
        """

    @abstractmethod
    def multiply_adds(self) -> int:
        """The number of multiplications of one application; sums without factors may count as 0."""

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """The tensors that define A."""

    @abstractmethod
    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """The same operator with its tensors in `dtype` on `device`."""

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few small operators of this class, for the tests that run on every class."""


class AbstractLeaf(AbstractOperator):
    """An operator that is not composed of others; it defines `apply`, `transpose`, `absolute` and `summands`."""

    @abstractmethod
    def apply(self, tensor: Tensor) -> Tensor:
        """A applied in plain floating point: (..., *in_shape) -> (..., *out_shape)."""

    @abstractmethod
    def absolute(self) -> AbstractLeaf:
        """The operator |A|, in which every coefficient is replaced by its absolute value."""

    def signs(self) -> AbstractLeaf | None:
        """The same operator with each coefficient replaced by its sign: -1, 0 or 1; None if they are not known."""
        return None

    @property
    @abstractmethod
    def summands(self) -> int:
        """The largest number of products summed in one entry of the result; 0 if entries are only moved or dropped."""

    @abstractmethod
    def transpose(self) -> AbstractLeaf: ...

    @final
    def push(self, value: Ball) -> Ball:
        return value.linear(self)

    @final
    def absorb(self, sizes: Sizes) -> Sizes:
        return sizes.before(self)

    @property
    def sums_products(self) -> bool:
        """Whether each result of `apply` is a sum of products of entries and numbers that are 1 or in `tensors`."""
        return False

    def least_coefficient(self) -> float:
        """A lower bound of the magnitudes of coefficients that are not 0, up to two roundings; 0 if none is known."""
        return min((least_nonzero(t) for t in self.tensors()), default=1.0) if self.sums_products else 0.0

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball:
        """Like `push`, but sums of products are exact: of those with 1 and 0, at most one is not 0.

        Subnormal coefficients are excepted, because their products with 1 may be flushed to zero.
        """
        units = one_hot(index, self.in_shape, dtype)
        if not self.sums_products or any(has_subnormal(t) for t in self.tensors()):
            return self.push(arithmetic.exact(units))
        return arithmetic.exact(self.apply(units))

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The largest column sum for p = 1, the largest row sum for p = inf, and `spectral_norm` for p = 2."""
        if p == 2:
            return spectral_norm(self)
        some = next(iter(self.tensors()), torch.zeros((), dtype=torch.float64))
        absolute = self.absolute() if p == torch.inf else self.absolute().transpose()
        ones = torch.ones(absolute.in_shape, dtype=some.dtype, device=some.device)
        return absolute.push(arithmetic.exact(ones)).upper().max()


def one_hot(index: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Unit tensors: 1 at the flat position `index` of a tensor of `shape`: (...,) -> (..., *shape)."""
    flat = torch.zeros(*index.shape, prod(shape), dtype=dtype, device=index.device)
    return flat.scatter_(-1, index.unsqueeze(-1), 1.0).reshape((*index.shape, *shape))
