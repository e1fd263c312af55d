"""Small modules of the kinds that people have: convolutional, residual, pooled, normalised, concatenated."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.network import Network


class Residual(nn.Module):
    """Two convolutions beside a strided 1 x 1 shortcut, each normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.short = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(2, 3, 1, 2)
        self.norm = nn.BatchNorm2d(3)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.b(F.relu(self.norm(self.a(x)))))
        return self.out(F.relu(h + self.short(x)).flatten(1))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Concatenations along the channels, then the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x, F.leaky_relu(self.a(x), 0.2)], 1)
        h = torch.cat([h, F.relu(self.b(h))], 1)
        return self.out(h.mean((2, 3)))  # type: ignore[no-any-return]


CONVOLUTIONAL: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)
    ),
    "max-pool": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(2, 3),
    ),
    "max-pool with ties": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(2, 3),
    ),
    "average-pool": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.Flatten(), nn.Linear(48, 3)
    ),
    "residual": Residual,
    "concatenated": Dense,
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), nn.ReLU6(), nn.Conv2d(4, 2, 1), nn.Hardtanh(),
        nn.Flatten(), nn.Linear(32, 3),
    ),
    "generator": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 1, 3, 2, 1, 1),
        nn.BatchNorm2d(1), nn.ReLU(), nn.Upsample(scale_factor=2),
    ),
    "smooth": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 3, 2, 1), nn.GELU(), nn.Conv2d(2, 3, 2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
}  # fmt: skip
"""Modules on inputs of 2 x 4 x 4."""
PIECEWISE = tuple(name for name in CONVOLUTIONAL if name not in ("smooth", "max-pool with ties"))
"""Those on which bounds are rigorous, and a point has one derivative."""


def convolutional(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Network]:
    """A module of random weights and statistics in `dtype`, and its network."""
    torch.manual_seed(seed)
    module = CONVOLUTIONAL[name]().to(dtype).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.2, 2.0)
            nn.init.uniform_(part.weight, -1.5, 1.5)
    return module, rj.load(module, torch.zeros(1, 2, 4, 4), dtype=dtype)
