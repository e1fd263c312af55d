"""The network as it runs: a program in floating point, about whose values statements are made."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import NoReturn, final

import torch
from torch import Tensor

from recurjac.arithmetic.ball import Ball
from recurjac.arithmetic.base import AbstractArithmetic, check_memory
from recurjac.arithmetic.interval import Interval
from recurjac.arithmetic.kinds import Rigorous
from recurjac.arithmetic.rounding import gamma_of
from recurjac.errors import InvalidRequest, expect_whole

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@final
@dataclass(frozen=True)
class Deployed(AbstractArithmetic):
    """Statements hold for what a program computes in `precision`, "float32" or "float64", in any order of summation.

    A program in floating point has values but no derivative, so only `certified_radius` and `deployed_error` take it;
    everything else raises InvalidRequest.  docs/soundness.md says which programs are meant.
    sums: at most so many sums does any product of a layer go through; by default no limit is known, and it is as many
    as there are products.  For pairwise sums, it is the logarithm of their number; for sums in blocks, add those in a
    block and those of blocks.
    ulps, absolute: the values of tanh and sigmoid that the program's library gives are off by at most so many units of
    the last place of the true value, plus `absolute`.
    memory: as in `Rigorous`.  Raises InvalidRequest for another precision, and for errors that are negative or not
    finite.

    Source: docs/mathematics.md, §8.4.
    """

    precision: str = "float32"
    sums: int | None = None
    ulps: float = 4.0
    absolute: float = 0.0
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise InvalidRequest(f"the deployed precision is {self.precision!r}; give float32 or float64")
        if self.sums is not None:
            expect_whole("the deployed network", sums=self.sums)
            if self.sums < 1:
                raise InvalidRequest(f"a product goes through {self.sums} sums; give 1 or more, or None")
        check_memory("Deployed", self.memory)
        for name, number in (("ulps", self.ulps), ("absolute", self.absolute)):
            whole = isinstance(number, int | float) and not isinstance(number, bool)
            if not whole or not number >= 0 or not isfinite(number):
                raise InvalidRequest(f"{name} of {self.precision} is {number!r}; give a number that is 0 or more")

    @property
    def title(self) -> str:
        return f"deployed {self.precision}"

    @property
    def rigorous(self) -> bool:
        return True

    @property
    def real(self) -> Rigorous:
        """The arithmetic of the bounds of the network in real arithmetic, from which the program deviates."""
        return Rigorous(self.memory)

    @property
    def dtype(self) -> torch.dtype:
        return _PRECISIONS[self.precision]

    @property
    def unit(self) -> float:
        """The unit roundoff u of the program's precision."""
        return float(torch.finfo(self.dtype).eps) / 2

    @property
    def tiny(self) -> float:
        """The smallest normal number of the program's precision; less may be flushed to 0."""
        return float(torch.finfo(self.dtype).tiny)

    @property
    def largest(self) -> float:
        """The largest number of the program's precision."""
        return float(torch.finfo(self.dtype).max)

    def gamma(self, roundings: int) -> float:
        """γ_n of the program's precision, rounded upwards; infinite where it proves nothing.

        It has at most three roundings in float64.
        """
        return gamma_of(roundings, self.dtype) * (1 + 2.0**-50)

    def exact(self, tensor: Tensor) -> Ball:
        self._refuse()

    def ball(self, mid: Tensor, rad: Tensor) -> Ball:
        self._refuse()

    def weigh(self, weights: Tensor, numbers: Tensor) -> Ball:
        self._refuse()

    def at_least(self, computed: Tensor, operations: int) -> Tensor:
        self._refuse()

    def at_most(self, computed: Tensor, operations: int) -> Tensor:
        self._refuse()

    def above(self, difference: Tensor) -> Tensor:
        self._refuse()

    def rounded(self, computed: Tensor, operations: int) -> Interval:
        self._refuse()

    def crossed(self, lower: Tensor, upper: Tensor) -> Interval:
        self._refuse()

    def refuse(self, why: str) -> NoReturn:
        """Raise InvalidRequest for a request that cannot be answered for the program."""
        raise InvalidRequest(f"nothing is proved for the network as it runs in {self.precision}: {why}")

    def _refuse(self) -> NoReturn:
        raise InvalidRequest(
            f'Deployed("{self.precision}") is about a program in floating point, which has values but no derivative; '
            "it is for certified_radius and deployed_error only: give Rigorous() here"
        )
