"""Local and global Lipschitz constants: an upper bound that is proved and a lower bound that is attained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, round_up_to
from recurjac.errors import expect
from recurjac.jacobian import (
    AbstractJacobianMethod,
    chain_over,
    check_request,
    choose_arithmetic,
    default_method,
    samples,
)
from recurjac.network import Network
from recurjac.norms import AbstractRowSum, ChordSum, check_norm, induced_norm
from recurjac.preactivation import AbstractPreactivation, Crown
from recurjac.propagation.chain_rule import ChainRule
from recurjac.region import AbstractRegion
from recurjac.search import Search


class AbstractNormMethod(ABC):
    """A way to bound the induced norm of a chain rule's Jacobian."""

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        """What `--method` calls objects of this class; empty if it has no name there."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and plots."""

    @abstractmethod
    def norm(self, chain: ChainRule, p: float, q: float) -> Tensor:
        """An upper bound of ‖J‖_{p→q}: (batch,)."""

    @abstractmethod
    def rows(self, chain: ChainRule, p: float) -> Tensor:
        """Upper bounds of the norm of each row alone, as one from p: (batch, K)."""

    @abstractmethod
    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        """Why rounding is not covered, for that many outputs; empty if it is."""


@final
@dataclass(frozen=True)
class JacobianNorm(AbstractNormMethod):
    """The norm of the entry-wise bounds that `method` gives, with `row_sum` for p = inf."""

    method: AbstractJacobianMethod = field(default_factory=default_method)
    row_sum: AbstractRowSum = field(default_factory=ChordSum)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {}

    @property
    def title(self) -> str:
        return self.method.title

    def norm(self, chain: ChainRule, p: float, q: float) -> Tensor:
        entries, sums = self._entries(chain, p)
        return induced_norm(entries, p, q, chain.arithmetic, sums)

    def rows(self, chain: ChainRule, p: float) -> Tensor:
        entries, sums = self._entries(chain, p)
        each = entries.reshape(-1, 1, entries.shape[-1])
        return induced_norm(each, p, inf, chain.arithmetic, sums.reshape(-1, 1)).reshape(sums.shape)

    def _entries(self, chain: ChainRule, p: float) -> tuple[Interval, Tensor]:
        """Bounds of the entries, and the sums of their absolute values along each row."""
        prepared = self.method.prepare(chain)
        entries = prepared.push_all()
        return entries, self.row_sum.bound(entries, prepared) if p == inf else entries.magnitude.sum(-1)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


@final
@dataclass(frozen=True)
class ProductOfNorms(AbstractNormMethod):
    """Π ‖W‖_{p→p} max|σ'| times the norm of the output rows, branches added: the baseline of every paper (MATH §6)."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"product": cls()}

    @property
    def title(self) -> str:
        return "product of norms"

    def norm(self, chain: ChainRule, p: float, q: float) -> Tensor:
        exact, one = chain.arithmetic.exact, torch.ones(chain.batch, dtype=chain.dtype, device=chain.device)
        found = [exact(one)]
        for node in range(1, chain.end + 1):
            total = exact(torch.zeros_like(one))
            for e in chain.edges[node]:
                if node < chain.end:
                    factor = _rounded_up(e.operator.norm(p, chain.arithmetic), one)
                else:
                    rows = chain.gradient_rows(e.operator).map(lambda t: t.flatten(2))
                    entries = chain.arithmetic.between(rows, rows)
                    sums = chain.arithmetic.at_least(entries.magnitude.sum(-1), entries.shape[-1])
                    factor = induced_norm(entries, p, q, chain.arithmetic, sums)
                total = total + found[e.source] * exact(factor)
            slopes = chain.slopes[node]
            steepest = one if slopes is None else slopes.magnitude.flatten(1).amax(1)
            found.append(exact((total * exact(steepest)).upper()))
        return found[-1].upper()

    def rows(self, chain: ChainRule, p: float) -> Tensor:
        """That of the largest row, for each."""
        return self.norm(chain, p, inf).unsqueeze(1).expand(-1, chain.rows)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


def _rounded_up(norm: Tensor, like: Tensor) -> Tensor:
    """A norm that is not less than `norm`, of the dtype and the device of `like`; some operators give float64."""
    return norm.to(like) if norm.dtype == like.dtype else round_up_to(norm, like.dtype).to(like)


@final
@dataclass(frozen=True)
class Lipschitz:
    """max ‖J(x)‖_{p→q} over the region is at most `upper` and at least `lower`, each (batch,).

    Where the segment between two inputs stays in the region (it is convex), ‖f(x) - f(y)‖_q <= upper ‖x - y‖_p.
    witness, direction: (batch, *input), where and which way the gain `lower` is attained.
    rigorous: whether floating-point rounding is covered; if not, `reason` says why.  note: what else one should know.
    """

    upper: Tensor
    lower: Tensor
    witness: Tensor
    direction: Tensor
    p: float
    q: float
    method: str
    rigorous: bool
    reason: str
    note: str

    def __repr__(self) -> str:
        pairs = ", ".join(
            f"{float(a):.6g} … {float(b):.6g}" for a, b in zip(self.lower, self.upper.detach(), strict=True)
        )
        kind = "rigorous" if self.rigorous else f"not rounding-safe: {self.reason}"
        note = f"; {self.note}" if self.note else ""
        return f"Lipschitz(l{self.p:g} → l{self.q:g}, attained … certified: {pairs}; {self.method}, {kind}{note})"


def lipschitz(
    network: Network,
    region: AbstractRegion,
    p: float = inf,
    q: float = inf,
    method: AbstractJacobianMethod | AbstractNormMethod | None = None,
    pre: AbstractPreactivation | None = None,
    arithmetic: AbstractArithmetic | None = None,
    search: Search | None = None,
) -> Lipschitz:
    """Bounds of the local Lipschitz constant max ‖J(x)‖_{p→q} of `network` over `region`, for each sample.

    p: norm of the inputs, q: norm of the vector of all outputs (inf: the largest single output), 1, 2 or inf each.
    One output is `network.output(k)`, a difference of two `network.margin(a, b)`.  A region of infinite radius gives
    the global constant.  method: a Jacobian method or a norm method, by default the best that the library has; pre:
    by default `Crown()`; arithmetic: by default `Rigorous()` where complete; search: for the lower bound.
    `upper` is differentiable with respect to the network's live parameters.
    Raises InvalidRequest for an unknown norm, InvalidRegion if the region does not fit the network.

    Source: MATH §6; arXiv:1810.11783, Section 3.5.
    """
    check_request(network, region, pre or Crown(), arithmetic)
    p, q = check_norm(p, "input"), check_norm(q, "output")
    flat = network.flattened_output()
    bound = region.bind(flat.input_shape, flat.dtype, flat.device)
    how = as_norm_method(method)
    chosen, reason = choose_arithmetic(flat, bound, arithmetic)
    more = how.unproved_rounding(p, q, flat.output_shape[0]) if chosen.rigorous else []
    if more:
        chosen, reason = Fast(chosen.memory), "; ".join(more)
    parts = [
        how.norm(chain_over(flat, part, pre or Crown(), chosen), p, q) for part in samples(flat, bound, pre or Crown())
    ]
    upper = torch.cat(parts)
    upper = torch.where(upper.isnan(), inf, upper)
    found = (search or Search()).attained(flat, region, p, q, chosen)
    lower = _not_above(found.gain, upper.detach(), chosen)
    Interval(lower, upper)  # raises UnsoundBounds if the bounds cross
    unbounded = "the region is unbounded: `lower` is from inputs spread widely around those given"
    note = unbounded if bool(bound.unbounded.any()) else ""
    return Lipschitz(
        upper, lower, found.witness, found.direction, p, q, how.title, chosen.rigorous, reason, note
    )  # fmt: skip


def as_norm_method(method: AbstractJacobianMethod | AbstractNormMethod | None) -> AbstractNormMethod:
    """`method` as a bound of norms: a Jacobian method through its entries."""
    if method is None:
        return JacobianNorm()
    expect(method, (AbstractJacobianMethod, AbstractNormMethod), "the method", "give an object such as Chords()")
    return method if isinstance(method, AbstractNormMethod) else JacobianNorm(method)


def _not_above(lower: Tensor, upper: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """`lower`, or without proved rounding the lesser of both where they differ by rounding alone."""
    if arithmetic.rigorous:
        return lower
    close = lower <= upper * (1 + torch.finfo(upper.dtype).eps ** 0.5)
    return torch.where(close, torch.minimum(lower, upper), lower)
