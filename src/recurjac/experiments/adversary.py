"""The adversary for adversarial training: projected gradient ascent (Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.experiments.perceptron import Perceptron


def adversarial(
    network: Perceptron, x: Tensor, y: Tensor, radius: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Images (n, d) in [0, 1] within `radius` of x in the l∞ norm, with a larger loss: ascent from a random start.

    x: (n, d) in [0, 1]; y: (n,) the classes.  Each step moves by 2.5 radius / steps along the sign of the gradient of
    the cross-entropy, so that every point of the ball can be reached from every other.
    """
    fixed = network.detached()
    low, high = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    start = x + radius * (2 * torch.rand(x.shape, generator=generator) - 1)
    moved = torch.minimum(torch.maximum(start, low), high)
    for _ in range(steps):
        moved.requires_grad_()
        loss = torch.nn.functional.cross_entropy(fixed.logits(moved), y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, moved)
        moved = moved.detach().add(slope.sign(), alpha=2.5 * radius / steps)
        moved = torch.minimum(torch.maximum(moved, low), high)
    return moved
