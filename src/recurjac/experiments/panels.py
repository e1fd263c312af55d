"""Certified bounds of single gradients as images: the content of panels.npz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from recurjac.experiments.material import Material
from recurjac.jacobian import jacobian_bounds
from recurjac.machine import one_thread
from recurjac.region import LpBall


@final
@dataclass(frozen=True)
class Gradient:
    """The gradient of one output of a network around an image, on an l_p ball; an infinite radius is everywhere."""

    subject: int
    sample: int
    output: int
    radius: float
    p: float
    title: str


def write_panels(path: Path, material: Material, gradients: Sequence[Gradient]) -> None:
    """Write `image`, `lower` and `upper` (n, *shape) and `title` (n,): certified bounds of each of the gradients."""
    found: dict[str, list[np.ndarray]] = {"image": [], "lower": [], "upper": []}
    with one_thread():
        for g in gradients:
            network, sample = material.subjects[g.subject].opened(), material.samples[g.sample]
            bounds = jacobian_bounds(network.output(g.output), LpBall(sample.centre(network), g.radius, g.p))
            found["image"].append(sample.pixels.reshape(material.shape))
            found["lower"].append(bounds.lower.detach().numpy().reshape(material.shape))
            found["upper"].append(bounds.upper.detach().numpy().reshape(material.shape))
    image, lower, upper = (np.stack(each) for each in found.values())
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.savez_compressed(file, image=image, lower=lower, upper=upper, title=np.array([g.title for g in gradients]))
    beside.replace(path)
