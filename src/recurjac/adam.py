"""Adam's method.  That of PyTorch takes seconds to load, which would be lost to the first question of a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import final

import torch
from torch import Tensor

_FIRST, _SECOND = 0.9, 0.99
"""How much of the mean gradient, and of the mean square of it, a step keeps."""
_EPS = 1e-8


@final
@dataclass
class Adam:
    """Steps that go down along gradients, each entry at a pace of its own; the tensors are changed in place.

    No proof depends on it.  Source: Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1.
    """

    leaves: Sequence[Tensor]
    _moments: dict[int, _Moments] = field(default_factory=dict)

    def step(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        """One step of size `rate` along a gradient of each leaf; without one, it stays as it is."""
        with torch.no_grad():
            for i, (leaf, gradient) in enumerate(zip(self.leaves, gradients, strict=True)):
                if gradient is not None:
                    self._moments[i] = self._moments.get(i, _Moments.of(leaf)).after(gradient)
                    leaf.copy_(self._moments[i].moved(leaf, rate))


@final
@dataclass(frozen=True)
class _Moments:
    """Running means of a gradient and of its square, over so many steps."""

    mean: Tensor
    square: Tensor
    steps: int

    @classmethod
    def of(cls, leaf: Tensor) -> _Moments:
        return cls(torch.zeros_like(leaf), torch.zeros_like(leaf), 0)

    def after(self, gradient: Tensor) -> _Moments:
        """The means after one more gradient."""
        mean = torch.lerp(self.mean, gradient, 1 - _FIRST)
        square = torch.addcmul(self.square * _SECOND, gradient, gradient, value=1 - _SECOND)
        return _Moments(mean, square, self.steps + 1)

    def moved(self, leaf: Tensor, rate: float) -> Tensor:
        """The leaf after the step."""
        kept_mean, kept_square = (1 - kept**self.steps for kept in (_FIRST, _SECOND))
        size = self.square.sqrt() / sqrt(kept_square) + _EPS
        return torch.addcdiv(leaf, self.mean, size, value=-rate / kept_mean)
