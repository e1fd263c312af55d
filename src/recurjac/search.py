"""Lower bounds of Lipschitz constants: the largest gain ‖J(x) v‖_q / ‖v‖_p that a search finds and proves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import MEMORY, Fast
from recurjac.deadline import NEVER, Deadline, check_seconds
from recurjac.jacobian import Gradients, RecurJac
from recurjac.network import Network
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.propagation.forms import DenseForms
from recurjac.region import BoundBall, BoundRegion, LpBall


@final
@dataclass(frozen=True)
class Attained:
    """‖J v‖_q / ‖v‖_p is at least `gain` (batch,) at x = `witness` for v = `direction`, both (batch, *input)."""

    gain: Tensor
    witness: Tensor
    direction: Tensor

    def rows(self, begin: int, end: int) -> Attained:
        """That of some of the samples."""
        return Attained(self.gain[begin:end], self.witness[begin:end], self.direction[begin:end])

    @classmethod
    def joined(cls, parts: Sequence[Attained]) -> Attained:
        """That of several samples as one batch."""
        return cls(*(torch.cat(t) for t in zip(*((a.gain, a.witness, a.direction) for a in parts), strict=True)))


def better_of(known: Attained, found: Attained) -> Attained:
    """For each sample, the larger of two gains."""
    better = found.gain > known.gain
    wide = better.reshape(-1, *[1] * (found.witness.dim() - 1))
    return Attained(
        torch.where(better, found.gain, known.gain), torch.where(wide, found.witness, known.witness),
        torch.where(wide, found.direction, known.direction),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class Search:
    """Sampling inside, on the boundary and at corners of the region, then a random local search around the best points.

    If an activation is not piecewise linear, the best points then ascend along the gradient of their gains.
    work: multiply-adds for each sample of the batch, half of them for sampling; with 0, only the centre is evaluated.
    kept: how many points are refined.  seed: of the random generator; the same seed gives the same result.
    seconds: the search ends earlier if it takes longer, for each batch; the result then depends on the clock.
    """

    work: float = 4e8
    kept: int = 16
    seed: int = 0
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("Search", self.seconds)

    def attained(self, problem: Problem, p: float, q: float) -> Attained:
        """The best proved gain of a network with a vector of outputs, at points that are proved to be in the region.

        Where a pre-activation may be at a kink, because it is as close to it as its rounding error, only what holds
        for every element of Clarke's Jacobian counts.  The gain is therefore one that the network really has.  If the
        problem has constraints, only points that are proved to satisfy them count.
        """
        with torch.no_grad():
            deadline = Deadline.after(self.seconds)
            points = self._refine(problem.network, problem.bound, p, q, Deadline.after(_REFINED * self.seconds))
            first, rest = (points, []) if self.seconds == inf else (points[:, :1], points[:, 1:].split(_PROVED, 1))
            before = deadline.spent
            found = _prove(problem, first, problem.holds(first), p, q)
            took = deadline.spent - before
            for part in rest:
                if deadline.left < part.shape[1] * took:
                    break
                found = better_of(found, _prove(problem, part, problem.holds(part), p, q))
            return found

    def _refine(self, network: Network, region: BoundRegion, p: float, q: float, deadline: Deadline) -> Tensor:
        """The best points found, (batch, kept, *input), best first; the centre is always among the candidates."""
        generator = torch.Generator().manual_seed(self.seed)
        points = region.x.unsqueeze(1)
        if self.work <= 0:
            return points
        affordable = int(self.work / 2 / (prod(network.output_shape) * max(1, network.multiply_adds)))
        count = min(max(affordable, 3 * self.kept), _MOST_POINTS)
        points = torch.cat([points, _finite(region.sample(count, generator), region.x)], 1)
        gains = _gains(network, points, p, q, Deadline.after(_SAMPLED * deadline.left))[0]
        best = gains.topk(min(self.kept, gains.shape[1]), dim=1)
        points, gains = _take(points, best.indices), best.values
        for step in range(max(12, count // self.kept)):
            if deadline.over:
                break
            moved = _finite(region.project(_moved(points, region, step, generator)), region.x)
            tried = _gains(network, moved, p, q)[0]
            better = tried >= gains  # gains of piecewise linear networks are flat: drift along
            gains = torch.where(better, tried, gains)
            points = torch.where(better.reshape(*better.shape, *[1] * (points.dim() - 2)), moved, points)
        if not _is_linear(network):
            rounds = min(_ROUNDS, count // (len(_STRIDES) * self.kept))
            points, gains = _ascended(network, region, points, (p, q), rounds, deadline)
        return _take(points, gains.argsort(1, descending=True))


_REFINED = 0.7
"""The share of the time, if it is limited, for looking; the rest is for proofs."""
_PROVED = 3
"""The number of points whose gains are proved together if the time is limited."""
_SAMPLED = 0.5
"""The share of the time for looking in which samples are looked at; the rest is for moving the best of them."""
_LOT = 512
"""The largest number of points that are evaluated together, so that a search ends in time."""
_LOT_WORK = 10**7
"""About the number of multiply-adds of these points, but a few are always evaluated together."""
_LEAST_LOT = 16
_ROUNDS = 12
"""The largest number of steps of an ascent along gradients."""
_STRIDES = (1.0, 0.5, 0.25, 0.1, 0.03)
"""The strides that are tried in a step of an ascent, from a point towards the farthest point along the gradient."""
_MOST_POINTS = 6000
"""The largest number of samples; more do not help even for tiny networks."""


def _moved(points: Tensor, region: BoundRegion, step: int, generator: torch.Generator) -> Tensor:
    """Random steps, every third round along few coordinates, of sizes from the whole region to a hundredth of it."""
    shape, like = points.shape, points
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(like)
    share = 0.15 if step % 3 == 0 else 1.0
    mask = torch.rand(shape, generator=generator, dtype=torch.float64).to(like) < share
    size = float(10.0 ** (-2 * ((step * 7) % 10) / 10))
    scale = region.scale.unsqueeze(1)
    wide = torch.where(scale > 0, scale, 0.0)
    far = (points - region.x.unsqueeze(1)).abs().flatten(2).amax(-1).reshape(*shape[:2], *[1] * (points.dim() - 2))
    unbounded = region.unbounded.reshape(-1, *[1] * (points.dim() - 1))
    return points + size * torch.where(unbounded, torch.maximum(wide, far), wide) * torch.where(mask, noise, 0.0)


def _is_linear(network: Network) -> bool:
    """Whether gains do not change between kinks, so that their gradient says nothing."""
    return all(s.linear or s.activation.piecewise_linear for s in network.stages)


def _ascended(
    network: Network, region: BoundRegion, points: Tensor, norms: tuple[float, float], rounds: int, deadline: Deadline
) -> tuple[Tensor, Tensor]:
    """The points (batch, N, *input) after steps of Frank and Wolfe's method for the gain in the best direction.

    Also their gains, (batch, N).
    """
    gains, ways = _gains(network, points, *norms)
    centre, reach = region.x.unsqueeze(1), 4 * region.scale.unsqueeze(1)
    for _ in range(rounds):
        if deadline.over:
            break
        slopes = _gradient(network, points, ways, norms[1])
        far = _finite(region.project(centre + reach * _steepest(slopes, region)), region.x)
        for stride in _STRIDES:
            moved = region.project((1 - stride) * points + stride * far)
            tried, new = _gains(network, moved, *norms)
            wide = (tried > gains).reshape(*gains.shape, *[1] * (points.dim() - 2))
            points, ways = torch.where(wide, moved, points), torch.where(wide, new, ways)
            gains = torch.maximum(gains, tried)
    return points, gains


def _gradient(network: Network, points: Tensor, ways: Tensor, q: float) -> Tensor:
    """The gradient of ‖J(x) v‖_q by the points, for fixed directions v, both (batch, N, *input); 0 where not finite."""
    flat, along = points.detach().flatten(0, 1), ways.flatten(0, 1).flatten(1)
    width = prod(network.output_shape) * sum(prod(network.shape(k)) for k in range(network.depth + 1))
    part, found = max(1, MEMORY // (8 * 4 * width)), []
    for x, v in zip(flat.split(part), along.split(part), strict=True):
        x.requires_grad_()
        with torch.enable_grad():
            image = torch.einsum("nkr,nr->nk", point_jacobian(network, x), v)
            found += torch.autograd.grad(torch.linalg.vector_norm(image, q, dim=-1).sum(), x)
    slopes = torch.cat(found)
    return torch.where(slopes.isfinite(), slopes, 0.0).reshape(points.shape)


def _steepest(slopes: Tensor, region: BoundRegion) -> Tensor:
    """The direction towards the farthest point of a region along slopes (batch, N, *input), of size 1."""
    flat = slopes.flatten(2)
    if isinstance(region, BoundBall) and region.p == 2:
        size = torch.linalg.vector_norm(flat, dim=-1, keepdim=True)
        return (flat / torch.where(size > 0, size, 1.0)).reshape(slopes.shape)
    if isinstance(region, BoundBall):
        flat = torch.where(flat.abs() == flat.abs().amax(-1, keepdim=True), flat, 0.0)
    return flat.sign().reshape(slopes.shape)


def _finite(points: Tensor, x: Tensor) -> Tensor:
    """The points (batch, N, *input), with x (batch, *input) in place of points that overflowed."""
    known = points.isfinite().flatten(2).all(2)
    return torch.where(known.reshape(*known.shape, *[1] * (points.dim() - 2)), points, x.unsqueeze(1))


def _take(points: Tensor, index: Tensor) -> Tensor:
    """points[b, index[b]]."""
    return torch.stack([x[i] for x, i in zip(points, index, strict=True)])


def _gains(network: Network, points: Tensor, p: float, q: float, deadline: Deadline = NEVER) -> tuple[Tensor, Tensor]:
    """The best direction found at each of the points (batch, N, *input), after the gain in that direction.

    Points that are not looked at before the deadline have the gain 0; the first of each sample come first.
    """
    flat = points.transpose(0, 1).flatten(0, 1)
    width = network.sizes[-1] * max(network.sizes)
    work = prod(network.output_shape) * max(1, network.multiply_adds)
    lot = min(_LOT, max(_LEAST_LOT, _LOT_WORK // work))
    part = max(1, min(MEMORY // (8 * 4 * width), lot))
    gains, directions = flat.new_zeros(len(flat)), torch.zeros_like(flat).flatten(1)
    for begin in range(0, len(flat), part):
        if begin > 0 and deadline.over:
            break
        rows = slice(begin, begin + part)
        gains[rows], directions[rows] = _direction(point_jacobian(network, flat[rows]), p, q)
    gains = torch.where(gains.isfinite(), gains, 0.0)  # an overflow carries no information
    back = (points.shape[1], points.shape[0])
    return gains.reshape(back).mT, directions.reshape(*back, *points.shape[2:]).transpose(0, 1)


def point_jacobian(network: Network, x: Tensor) -> Tensor:
    """J at the points x (batch, *input), inputs and outputs flattened: (batch, K, n_in), in plain floating point."""
    return outputs_and_jacobian(network, x)[1]


def outputs_and_jacobian(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs at the points x (batch, *input), (batch, *output), and J there."""
    fast = Fast()
    pre = network.preactivations(x)
    rows = torch.eye(prod(network.output_shape), dtype=x.dtype, device=x.device)
    gradient: dict[int, Tensor] = {network.depth: rows.reshape(1, -1, *network.output_shape)}
    for k in range(network.depth, 0, -1):
        stage = network.stages[k - 1]
        if k not in gradient:
            continue
        slope = stage.activation.slope_range(fast.enclose(pre[k - 1], pre[k - 1]), fast).upper
        through = gradient.pop(k) * slope.unsqueeze(1)
        for e in stage.edges:
            more = e.operator.transpose().push(fast.exact(through)).mid
            gradient[e.source] = gradient[e.source] + more if e.source in gradient else more
    zero = x.new_zeros(x.shape[0], rows.shape[0], *network.input_shape)
    return pre[-1], (gradient.get(0, zero) + zero).flatten(2)


def _direction(jacobian: Tensor, p: float, q: float) -> tuple[Tensor, Tensor]:
    """For each J (N, K, n_in), a large gain ‖J v‖_q and its direction v with ‖v‖_p = 1: (N,), (N, n_in).

    A power method for mixed norms (Boyd 1974), started from every row and from the best column.  For q = inf and for
    p = 1, the start is already exact.
    """
    column = torch.linalg.vector_norm(jacobian, q, dim=1).argmax(-1, keepdim=True)
    starts = [torch.zeros_like(jacobian[:, 0]).scatter(-1, column, 1.0).unsqueeze(1)]
    if p != 1:
        starts.append(_align(jacobian, p))
    v = torch.cat(starts, 1)
    for _ in range(0 if p == 1 or q == inf else 12):
        image = torch.einsum("nkr,nsr->nsk", jacobian, v)
        v = _align(torch.einsum("nkr,nsk->nsr", jacobian, _dual(image, q)), p)
    gains = torch.linalg.vector_norm(torch.einsum("nkr,nsr->nsk", jacobian, v), q, dim=-1)
    best = gains.argmax(-1)
    return gains.gather(1, best.unsqueeze(1)).squeeze(1), _take(v, best.unsqueeze(1)).squeeze(1)


def _align(g: Tensor, p: float) -> Tensor:
    """The v of p-norm 1 with the largest g·v, over the last dimension."""
    if p == inf:
        return torch.where(g >= 0, 1.0, -1.0).to(g.dtype)
    size = torch.linalg.vector_norm(g, 2, dim=-1, keepdim=True)
    first = torch.zeros_like(g)
    first[..., 0] = 1.0
    return torch.where(size > 0, g / torch.where(size > 0, size, 1.0), first)


def _dual(y: Tensor, q: float) -> Tensor:
    """The gradient of the q-norm (q = 1 or 2) at y, up to a positive factor."""
    return torch.where(y >= 0, 1.0, -1.0).to(y.dtype) if q == 1 else y


def _prove(problem: Problem, points: Tensor, inside: Tensor, p: float, q: float) -> Attained:
    """Bound J v at each of the points (batch, N, *input) with a region of radius 0, and keep the largest gain.

    Points that are not `inside` (batch, N) count as 0, which is a lower bound of every constant.
    """
    arithmetic = problem.arithmetic
    directions = _gains(problem.network, points, p, q)[1]
    flat, ways = points.flatten(0, 1), directions.flatten(0, 1)
    prepared = RecurJac().prepare(Gradients(problem.over(LpBall(flat, 0.0)).by(IBP())))
    image = prepared.push(DenseForms(ways[:, None, None], arithmetic)).mignitude[:, :, 0]
    gain = arithmetic.at_most(torch.linalg.vector_norm(image, q, dim=-1), image.shape[-1] + 4)
    if p == 2:
        length = arithmetic.at_least(torch.linalg.vector_norm(ways.flatten(1), 2, dim=-1), ways[0].numel() + 4)
        gain = arithmetic.at_most(gain / length, 1)
    gain = torch.where(inside & gain.isfinite().reshape(inside.shape), gain.reshape(inside.shape), 0.0)
    best = gain.argmax(1, keepdim=True)
    return Attained(gain.gather(1, best).squeeze(1), _take(points, best).squeeze(1), _take(directions, best).squeeze(1))
