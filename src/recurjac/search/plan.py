"""How the work of a search is divided: how many samples, climbers, steps and rounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

from recurjac.arithmetic import MEMORY
from recurjac.network import Network

STEPS = 60
"""The number of steps of a round, if the work allows."""
_SMOOTH_STEPS = 30
"""The same where no slope jumps."""
_LEAST_STEPS = 8
_PASSES = 5
"""A step takes about as long as this many evaluations of the network."""
_OVERHEAD = 10**6
"""The multiply-adds that could be done in the time that a step takes at least."""
_TOGETHER = 1024
"""The largest number of points that climb together: more are not quicker."""
_LEAST_CLIMBERS, _FEW_CLIMBERS = 2, 4
_FREE = 4
"""How many times as many climbers there may be where they make a step no slower."""
_FEW_INPUTS, _MANY_SAMPLES, _SAMPLES = 32, 2048, 256
"""With few inputs, more samples are worth their time."""
_SAMPLED = 1 / 8
"""The share of the work for samples."""
_PATIENCE = 16
"""A search goes on without success for one round of this many, but for two at least."""


@final
@dataclass(frozen=True)
class Plan:
    """Numbers for each sample of a group that is searched together.

    patience: the search stops after this many rounds without success.
    """

    samples: int
    climbers: int
    steps: int
    rounds: int
    patience: int


def group_size(network: Network, batch: int) -> int:
    """How many samples are searched together: as many as there is memory for."""
    return max(1, min(batch, _points(network) // _FEW_CLIMBERS))


def plan(network: Network, batch: int, work: float, kept: int) -> Plan:
    """The plan for `batch` samples that share this work, and about `kept` climbers each."""
    once = max(1, network.multiply_adds) * batch
    free = _OVERHEAD // (_PASSES * once)
    most = max(_LEAST_CLIMBERS, min(max(kept, min(_FREE * kept, free)), _points(network) // batch))
    climbers = max(min(most, _FEW_CLIMBERS), min(most, int(work / (_PASSES * once * STEPS))))
    step = max(_OVERHEAD, _PASSES * once * climbers)
    rounds = max(1, int(work / (STEPS * step)))
    steps = STEPS if rounds > 1 else max(_LEAST_STEPS, min(STEPS, int(work / step)))
    affordable = int(_SAMPLED * work / (prod(network.output_shape) * once))
    patience = max(2, rounds // _PATIENCE)
    if not _kinked(network):
        steps, patience = min(steps, _SMOOTH_STEPS), 2
    many = _MANY_SAMPLES if prod(network.input_shape) <= _FEW_INPUTS else _SAMPLES
    return Plan(max(climbers, min(affordable, many)), climbers, steps, rounds, patience)


def _kinked(network: Network) -> bool:
    """Whether some slope jumps; between jumps points do not know where to go, otherwise they arrive soon."""
    return any(not s.linear and s.factor is None and len(s.activation.jumps) > 0 for s in network.stages)


def _points(network: Network) -> int:
    """How many points are evaluated together at most."""
    return max(_LEAST_CLIMBERS, min(_TOGETHER, MEMORY // (8 * 6 * sum(network.sizes))))
