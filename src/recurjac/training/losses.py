"""Losses and penalties from bounds of a module that is being trained; each is a scalar with gradients.

They are not certificates: by default they do not cover rounding, and they are of the weights at that step.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor

from recurjac.errors import InvalidRegion, InvalidRequest, expect, expect_whole
from recurjac.region import AbstractRegion, BoundBall, BoundBox, Box, LpBall, Numbers
from recurjac.training.bounds import Bounds


def lipschitz_penalty(
    bounds: Bounds, region: AbstractRegion, *, p: float = inf, q: float = inf, target: float = 0.0
) -> Tensor:
    """The mean over samples of max(0, L - target), for upper bounds L of the local Lipschitz constants.

    bounds: of the module.  region: a ball around each sample of the batch, such as `LpBall(x, radius)`, or any other.
    p, q: norms of the inputs and of the vector of outputs; each is 1, 2 or inf.  A penalty of 0 means that every
    bound is at most `target`.
    Raises InvalidRegion if the region does not fit, InvalidRequest for an unknown norm or a negative target, and
    InvalidNetwork for weights that are NaN or infinite.

    Source: arXiv:1810.11783, Section 3.5, for the bound.
    """
    least = _target(target)
    return (_of(bounds).lipschitz(region, p=p, q=q) - least).clamp(min=0).mean()


def certified_margin_loss(bounds: Bounds, region: AbstractRegion, labels: Any) -> Tensor:
    """The mean cross entropy of the worst margins: log(1 + Σ_j exp(-m_j)), where m_j <= f_label - f_j on the region.

    region: a ball around each sample.  labels: (batch,), classes.  With radius 0 it is the cross entropy.  The bounds
    m_j are from the rule for pre-activations: with `IBP()` this is the loss of interval bound propagation.
    Raises InvalidRequest for labels that are not classes, otherwise as `lipschitz_penalty`.

    Source: arXiv:1810.12715 (training by interval bounds); arXiv:1711.00851 for worst margins in place of logits.
    """
    table, chosen = _margins(_of(bounds), labels)
    return _cross_entropy(bounds.chosen_margins(region, table, chosen))


def lipschitz_margin_loss(bounds: Bounds, ball: LpBall, labels: Any) -> Tensor:
    """As `certified_margin_loss`, with margins at the centres lowered by the radius times their Lipschitz constants.

    m_j = f_label(x) - f_j(x) - radius · L_j, where L_j bounds the Lipschitz constant of this margin on the ball, by
    the method of `bounds`.  ball: where its radius differs between features, the largest one counts.
    Raises InvalidRequest for a region that is not an `LpBall`, otherwise as `certified_margin_loss`.

    Source: arXiv:1802.04034 (Lipschitz-margin training), with local constants.
    """
    expect(ball, LpBall, "the region", "give LpBall(x, radius)")
    table, chosen = _margins(_of(bounds), labels)
    rows = table[chosen]
    slopes = bounds.slopes(ball, rows, p=ball.p)
    x, radius = _centres(bounds, ball)
    margins = (rows * bounds.network()(x).unsqueeze(1)).sum(2)
    fall = torch.where(slopes == 0, 0.0, radius * slopes)
    return _cross_entropy(margins - fall)


def monotonicity_loss(bounds: Bounds, region: AbstractRegion, signs: Any, *, margin: float = 0.0) -> Tensor:
    """The mean over samples of the total by which bounds of partial derivatives violate the wanted signs.

    signs: 1 where the output must not fall as the input grows, -1 where it must not rise, 0 where it is free; a tensor
    (inputs,) for all outputs, or (outputs, inputs), both flattened.  margin: wanted beyond 0.
    A derivative in [l, u] counts as max(0, margin - l) for a sign of 1, and as max(0, margin + u) for -1.  A loss of 0
    means that every bound has the wanted sign.
    Raises InvalidRequest for signs that do not fit, and a negative margin; otherwise as `lipschitz_penalty`.

    Source: arXiv:2011.10219 (certified monotonic neural networks), with bounds in place of their penalty at samples.
    """
    entries = _of(bounds).jacobian(region)
    wanted = _signs(signs, entries.lower)
    least = _target(margin, "margin")
    low, high = (least - entries.lower).clamp(min=0), (least + entries.upper).clamp(min=0)
    none = torch.zeros_like(low)
    return torch.where(wanted > 0, low, torch.where(wanted < 0, high, none)).flatten(1).sum(1).mean()


def gradient_norm_penalty(
    bounds: Bounds, real: Numbers, fake: Numbers, *, p: float = 2, target: float = 1.0, pieces: int = 4
) -> Tensor:
    """The mean of max(0, L - target)², where L bounds the norm of a critic's gradient between real and fake samples.

    bounds: of a critic, a module with one output.  real, fake: (batch, *input); no gradients reach them.  L is the
    largest of the bounds on so many `pieces` of the segment between a real and a fake sample, each of which is
    covered by the smallest box around it.  p: the norm of the inputs, 1, 2 or inf; gradients are measured in the dual
    norm.
    The penalty is one-sided: an upper bound says nothing about gradients that are too small.
    Raises InvalidRegion for inputs that do not fit, InvalidRequest for a module with several outputs and for less than
    one piece; otherwise as `lipschitz_penalty`.

    Source: arXiv:1709.08894 (WGAN-LP), with a bound in place of a sampled gradient; arXiv:1704.00028 (WGAN-GP).
    """
    least = _target(target)
    if _of(bounds).outputs != 1:
        raise InvalidRequest(f"a critic has one output, but the module has {bounds.outputs}; give a module with one")
    expect_whole("gradient_norm_penalty", pieces=pieces)
    if pieces < 1:
        raise InvalidRequest(f"a segment in {pieces} pieces; give 1 or more")
    found = bounds.lipschitz(_segments(real, fake, pieces), p=p).reshape(pieces, -1).amax(0)
    return (found - least).clamp(min=0).square().mean()


def _of(bounds: Bounds) -> Bounds:
    expect(bounds, Bounds, "the first argument", "give training.Bounds(module, example), made once before the loop")
    return bounds


def _target(value: float, what: str = "target") -> float:
    """A number that is not negative.  Raises InvalidRequest for others."""
    if not 0 <= value < inf:
        raise InvalidRequest(f"the {what} is {value}; give a finite number that is not negative")
    return float(value)


def _centres(bounds: Bounds, ball: LpBall) -> tuple[Tensor, Tensor]:
    """The centres (batch, *input), and the largest radius of each ball, (batch, 1)."""
    shape, dtype, device = bounds.first.input_shape, bounds.first.dtype, bounds.first.device
    bound = ball.bind(shape, dtype, device)
    assert isinstance(bound, BoundBall | BoundBox)  # noqa: S101  # (narrows the type)
    return bound.x, bound.radius.reshape(bound.batch, -1).amax(1, keepdim=True)


def _segments(real: Numbers, fake: Numbers, pieces: int) -> Box:
    """Boxes around equal pieces of the segments between pairs of inputs: those of the first piece of all pairs first.

    An end a + i/k (b - a) is computed in float64 with four roundings, each of at most u (|a| + |b|) up to second order.
    """
    a, b = (torch.as_tensor(t).detach().to("cpu", torch.float64) for t in (real, fake))
    if a.shape != b.shape:
        raise InvalidRegion(f"real and fake inputs have shapes {tuple(a.shape)} and {tuple(b.shape)}; give pairs")
    slack = 8 * torch.finfo(torch.float64).eps * (a.abs() + b.abs())
    ends = [a, *(a + i / pieces * (b - a) for i in range(1, pieces)), b]
    low = torch.cat([torch.minimum(s, t) - slack for s, t in pairwise(ends)])
    return Box(low, torch.cat([torch.maximum(s, t) + slack for s, t in pairwise(ends)]))


def _margins(bounds: Bounds, labels: Any) -> tuple[Tensor, Tensor]:
    """The rows e_label - e_j of all labels that occur, (labels · (classes - 1), classes), and those of each sample.

    The latter are (batch, classes - 1); j are the other classes in ascending order.
    Raises InvalidRequest for labels that are not classes.
    """
    count, network = bounds.outputs, bounds.first
    given = torch.as_tensor(labels, device=network.device).flatten()
    if count < 2:
        raise InvalidRequest("a margin is between two classes, but the module has one output")
    whole = not given.is_floating_point() and not given.is_complex() and given.dtype != torch.bool
    if not whole or not len(given) or int(given.min()) < 0 or int(given.max()) >= count:
        raise InvalidRequest(f"labels {given.tolist()[:8]} are not classes; give whole numbers from 0 to {count - 1}")
    found, place = given.unique(return_inverse=True)
    each = torch.arange(count - 1, device=network.device)
    others = each + (each >= found.unsqueeze(1)).to(each.dtype)
    unit = torch.eye(count, dtype=network.dtype, device=network.device)
    table = (unit[found].unsqueeze(1) - unit[others]).flatten(0, 1)
    return table, place.unsqueeze(1) * (count - 1) + each


def _cross_entropy(margins: Tensor) -> Tensor:
    """The mean of log(1 + Σ_j exp(-m_j)) for margins (batch, classes - 1)."""
    zero = margins.new_zeros(len(margins), 1)
    return torch.cat([zero, -margins], 1).logsumexp(1).mean()


def _signs(signs: Any, like: Tensor) -> Tensor:
    """The wanted signs as (outputs or 1, inputs).  Raises InvalidRequest if they do not fit."""
    found = torch.as_tensor(signs, dtype=like.dtype, device=like.device)
    outputs, inputs = like.shape[1:]
    if tuple(found.shape) not in ((inputs,), (1, inputs), (outputs, inputs)):
        raise InvalidRequest(
            f"the signs have shape {tuple(found.shape)}; give ({inputs},) for all outputs, or ({outputs}, {inputs})"
        )
    if not bool(((found == 0) | (found.abs() == 1)).all()):
        raise InvalidRequest(f"the signs {found.unique().tolist()[:8]} are not only 1, -1 and 0")
    return found
