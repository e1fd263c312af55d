"""Proved bounds of the largest eigenvalue of the Jacobian of a softmax over boxes (docs/mathematics.md, §3.11)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, with_derivative_of

_HALVINGS = 48
"""Bisection steps in the search for an eigenvalue."""
_ROUNDS = 8
"""How often numbers of which the eigenvalue is monotone are moved to an end; it ends when none is left."""
Shares = Callable[[Interval], Interval]
"""The ranges of p over boxes of rows."""


def largest_eigenvalue(z: Interval, shares: Shares, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of the largest eigenvalue λ of diag(p) - p pᵀ, p = softmax(z), over boxes (batch, rows, n).

    For a unit vector v, vᵀ J v is the variance of v with the weights p, and so is at most that with weights u >= p.
    Few boxes are divided; the result has the shape (batch, rows).
    """
    parts = _halved(z, shares(z).upper) if z.lower.numel() <= _FEW else z
    found = _largest(parts, shares, arithmetic)
    return found.reshape(-1, *z.shape[:-1]).amax(0)


_FEW = 2**14
"""The largest number of entries of boxes that are divided."""
_DIVIDED = 3
"""Along so many numbers of a row, those of the largest shares."""


def _halved(z: Interval, shares: Tensor) -> Interval:
    """The halves of boxes along the numbers of the largest shares, at finite points: (parts · batch, rows, n)."""
    order = shares.detach().topk(min(_DIVIDED, z.shape[-1]), -1).indices
    low, high = z.lower, z.upper
    for k in range(order.shape[-1]):
        place = torch.zeros_like(shares, dtype=torch.bool).scatter(-1, order[..., k : k + 1], True)
        place, middle = place.repeat(len(low) // len(place), 1, 1), low / 2 + high / 2
        place = place & middle.isfinite()
        low, high = (
            torch.cat([low, torch.where(place, middle, low)]),
            torch.cat([torch.where(place, middle, high), high]),
        )
    return Interval.unchecked(low, high)


def _largest(z: Interval, shares: Shares, arithmetic: AbstractArithmetic) -> Tensor:
    """The same without division."""
    with torch.no_grad():
        box, p = z, shares(z)
        most = _top(p.upper, arithmetic)
        for _ in range(_ROUNDS):
            falls, rises = _monotone(p, _bottom(p.lower, arithmetic), most, arithmetic)
            low, high = torch.where(rises, box.upper, box.lower), torch.where(falls, box.lower, box.upper)
            if torch.equal(low, box.lower) and torch.equal(high, box.upper):
                break
            box = Interval.unchecked(low, high)
            p = shares(box)
            most = torch.minimum(most, _top(p.upper, arithmetic))
    if not (z.lower.requires_grad or z.upper.requires_grad):
        return most
    ends = [torch.where(e == z.lower, z.lower, z.upper) for e in (box.lower, box.upper)]
    return with_derivative_of(_variance(shares(Interval.unchecked(*ends)).upper, most), most)


def _monotone(p: Interval, least: Tensor, most: Tensor, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor]:
    """Of which numbers λ, which is between `least` and `most`, falls over the whole box, and of which it rises.

    With a unit eigenvector v and m = p · v, p_k (v_k - m) = λ v_k, so that v_k = m / (1 - λ / p_k), whose squares have
    the sum 1, and ∂λ / ∂z_k = p_k ((v_k - m)² - λ) has the sign of λ m² - (p_k - λ)², or is 0.
    """
    exact, low, high, count = arithmetic.exact, least.unsqueeze(-1), most.unsqueeze(-1), p.shape[-1]
    below, above = (exact(p.lower) - exact(high)).lower(), (exact(p.upper) - exact(low)).upper()  # of p_k - λ
    far, near = torch.maximum(-below, above).clamp(min=0), torch.maximum(below, -above).clamp(min=0)
    large = torch.maximum(_quotient(-below, p.lower), _quotient(above, p.upper))  # of |1 - λ / p_k|
    small = torch.maximum(_quotient(below, p.lower), _quotient(-above, p.upper))
    squares = [arithmetic.at_most((1 / large).square(), 6), arithmetic.at_least((1 / small).square(), 6)]
    total = [t.sum(-1, keepdim=True) for t in squares]  # true sums are at least 1, so that underflow is within u
    most_mean = arithmetic.at_least(1 / arithmetic.at_most(total[0], count), 1).clamp(max=1)  # of m²
    least_mean = arithmetic.at_most(1 / arithmetic.at_least(total[1], count + 2), 1)
    falls = arithmetic.at_least(high * most_mean, 1) < arithmetic.at_most(near.square(), 1)
    rises = arithmetic.at_most(low * least_mean, 1) > arithmetic.at_least(far.square(), 1)
    return falls, rises


def _quotient(difference: Tensor, p: Tensor) -> Tensor:
    """max(difference, 0) / p, which is infinite where p is 0 and the difference is not."""
    some = torch.where(p > 0, p, 1.0)
    return torch.where(difference > 0, torch.where(p > 0, difference / some, torch.inf), 0.0)


def _top(u: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of the largest eigenvalue of diag(u) - u uᵀ / Σ u, u >= 0: (…).

    It is at most the largest number, and at most a λ that exceeds the second one if u_1 / (u_1 - λ) is at least the sum
    of all other u_i / (λ - u_i): λ I less that matrix then has the determinant of a positive semidefinite one, and by
    interlacing at most one negative eigenvalue.
    """
    first, second, guess = _root(u)
    wider = 1 + 16 * (u.shape[-1] + 4) * torch.finfo(u.dtype).eps
    value = torch.minimum(guess * wider, first)
    own, others = _sides(u, first, value)
    shown = (
        (value > second)
        & (value < first)
        & (arithmetic.at_most(own, 2) >= arithmetic.at_least(others, u.shape[-1] + 2))
    )
    return torch.where(shown, value, first)


def _bottom(u: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Lower bounds of that eigenvalue: the second number, or where the sides are the other way round."""
    first, second, guess = _root(u)
    narrower = 1 - 16 * (u.shape[-1] + 4) * torch.finfo(u.dtype).eps
    value = guess * narrower
    own, others = _sides(u, first, value)
    shown = (
        (value > second)
        & (value < first)
        & (arithmetic.at_least(own, 2) <= arithmetic.at_most(others, u.shape[-1] + 2))
    )
    return torch.where(shown, value, second)


def _root(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest number of each row, the second one (0 if there is none), and about the eigenvalue between them."""
    two = torch.cat([u, torch.zeros_like(u[..., :1])], -1).topk(2, -1).values
    first, second = two[..., 0], two[..., 1]
    low, high = second, first
    for _ in range(_HALVINGS):
        middle = low / 2 + high / 2
        own, others = _sides(u, first, middle)
        above = own >= others
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return first, second, high


def _sides(u: Tensor, first: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """u_1 / (u_1 - λ), and the sum of all other u_i / (λ - u_i); the first of equal numbers is u_1."""
    place = torch.zeros_like(u, dtype=torch.bool).scatter_(-1, u.argmax(-1, keepdim=True), True)
    apart = (value.unsqueeze(-1) - u).masked_fill(place, 1.0)
    terms = torch.where(u > 0, u / torch.where(apart > 0, apart, 1.0), 0.0).masked_fill(place, 0.0)
    terms = torch.where((apart <= 0) & (u > 0) & ~place, torch.inf, terms)
    gap = first - value
    own = torch.where(gap > 0, first / torch.where(gap > 0, gap, 1.0), torch.inf)
    return own, terms.sum(-1)


def _variance(u: Tensor, value: Tensor) -> Tensor:
    """vᵀ (diag(u) - u uᵀ / Σ u) v for the unit eigenvector v, as a function of u; its derivative is that of λ."""
    fixed = u.detach()
    apart = fixed - value.unsqueeze(-1)
    vector = torch.where(apart == 0, 1.0, fixed / torch.where(apart == 0, 1.0, apart))
    vector = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
    total = u.sum(-1, keepdim=True)
    middle = (u * vector).sum(-1, keepdim=True) / total
    variance: Tensor = (u * (vector - middle).square()).sum(-1)
    return variance
