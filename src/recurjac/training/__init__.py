"""Losses for training: differentiable penalties on certified bounds of a module's Jacobian and of its margins."""

from __future__ import annotations

from recurjac.training.bounds import Bounds
from recurjac.training.losses import (
    certified_margin_loss,
    gradient_norm_penalty,
    lipschitz_margin_loss,
    lipschitz_penalty,
    monotonicity_loss,
)

__all__ = [
    "Bounds", "certified_margin_loss", "gradient_norm_penalty", "lipschitz_margin_loss", "lipschitz_penalty",
    "monotonicity_loss",
]  # fmt: skip
