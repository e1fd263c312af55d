"""The numbers that the paper reports (Zhang, Zhang, Hsieh 2019, arXiv:1810.11783), for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

PAPER = "Zhang, Zhang, Hsieh 2019 (arXiv:1810.11783)"
WHY_OTHER = (
    "Absolute values differ from the paper's because the networks differ: they are trained anew, with other initial "
    "weights and another optimiser, and every bound depends on these weights and these images. What should agree is "
    "the order of the methods and, roughly, the gaps between them."
)


@final
@dataclass(frozen=True)
class PublishedRadii:
    """Mean certified l∞ radii by Theorem 2, from Table 1 of the paper."""

    recurjac: float
    fast_lip: float


_TABLE = {
    "3layer_relu_1024": ((0.02256, 0.02870, 0.03205), (0.01802, 0.02374, 0.02720)),
    "3layer_relu_1024_adv0.3": ((0.11573, 0.13753, 0.16153), (0.09639, 0.11753, 0.14067)),
    "4layer_relu_1024": ((0.02104, 0.02399, 0.02519), (0.01602, 0.01882, 0.02018)),
    "4layer_relu_1024_adv0.3": ((0.07350, 0.08603, 0.09863), (0.04232, 0.05267, 0.06417)),
}
TARGETS = ("runner-up", "random", "least-likely")
"""The targets of Table 1, in the order of the table."""
TABLE1: Mapping[tuple[str, str], PublishedRadii] = {
    (network, target): PublishedRadii(ours, theirs)
    for network, (recurjac, fast_lip) in _TABLE.items()
    for target, ours, theirs in zip(TARGETS, recurjac, fast_lip, strict=True)
}
"""By the network's recipe and the target; on MNIST."""
CIFAR_SECONDS = {"Fast-Lip": 2.4, "RecurJac-B": 10.5, "RecurJac-F0": 3600.0, "RecurJac-F1": 18000.0}
"""Seconds for one constant of the largest CIFAR network on one core, with the paper's implementation."""
