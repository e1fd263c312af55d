"""How far the values of a network as it runs, a program in floating point, are from those in real arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import final

import torch
from torch import Tensor

from recurjac.applications.program import absolute, activation_error, check_program, input_error, stage_error
from recurjac.arithmetic import Ball, Deployed, Interval
from recurjac.deadline import check_time_limit
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import Chords, FastLip, Gradients
from recurjac.jacobian.base import descend
from recurjac.loading import Source
from recurjac.network import Stage
from recurjac.preactivation import AutoRanges, Crown, PreactivationState, RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.propagation.chain_rule import ChainRule
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, Numbers

_LARGE = 2**33
"""Multiply-adds of a bound of all gradients (`Network.cost`) above which only those of the outputs are bounded."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class DeployedError(AbstractResult):
    """At each input x of the region, every program computes outputs within `error` of f(x), from x rounded once.

    error: (batch, *output), float64; infinite where nothing is proved.  stages: for each stage, (batch, *stage), bounds
    of the deviation of its pre-activations.  lower, upper: (batch, *output), between which the program's outputs lie.
    precision: that of the program, "float32" or "float64".
    """

    error: Tensor
    stages: tuple[Tensor, ...]
    lower: Tensor
    upper: Tensor
    precision: str
    provenance: Provenance

    def __repr__(self) -> str:
        worst = float(self.error.max()) if self.error.numel() else 0.0
        return f"DeployedError(at most {worst:.3g} in {self.precision}, {self._kind()})"


def deployed_error(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    pre: RuleLike | None = None,
    arithmetic: Deployed | None = None,
    time_limit: float | None = None,
) -> DeployedError:
    """Bounds of |f_program(x) - f(x)| over the region, for programs in floating point and any order of summation.

    network, region, radius, norm: as in `lipschitz`; the arithmetic of a `Problem` is the `Deployed` that is meant.
    pre: the rule for the ranges of the network in real arithmetic; the default is `Crown()`.
    arithmetic: by default `Deployed("float32")`.
    time_limit: seconds for all samples together, in place of a rule: that is then `AutoRanges(time_limit)`.
    Which programs are meant is said in docs/soundness.md.  The bound is the least of two: errors carried forward as
    intervals, and the error of each neuron times a bound of the gradient there.
    Raises InvalidRequest for networks of which no error is proved, naming the layer, for parts of regions, and for
    constraints; InvalidRegion if the region does not fit the network.

    Source: docs/mathematics.md, §8.4.
    """
    if not isinstance(network, Problem):
        arithmetic = Deployed() if arithmetic is None else arithmetic
        expect(arithmetic, Deployed, "the arithmetic", 'give Deployed("float32") or Deployed("float64")')
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    check_time_limit(time_limit, pre=None if pre is None and problem.pre == Crown() else problem.pre)
    problem = problem if time_limit is None else problem.by(AutoRanges(time_limit))
    deployed = problem.arithmetic
    if not isinstance(deployed, Deployed):
        raise InvalidRequest('the problem is about real arithmetic; give it arithmetic=Deployed("float32")')
    if problem.known or not isinstance(problem.region, AbstractRegion):
        raise InvalidRequest("rounding is bounded over whole regions without constraints; give an LpBall or a Box")
    with torch.no_grad():
        found = [_Deviations.of(part, deployed) for part in in_double(problem, deployed).batches()]
        outputs = [d.outputs for d in found]
        stages = tuple(torch.cat(each) for each in zip(*(d.before for d in found), strict=True))
        return DeployedError(
            stages[-1], stages, torch.cat([z.lower for z in outputs]), torch.cat([z.upper for z in outputs]),
            deployed.precision, problem.provenance("errors of rounding, forward and times gradients"),
        )  # fmt: skip


def in_double(problem: Problem, deployed: Deployed) -> Problem:
    """The problem in real arithmetic and float64, in which every float32 network is the same function.

    Activations whose parameters a computation in the network's dtype rounds have the rounded parameters.
    Raises InvalidRequest for networks whose programs are not known.
    """
    check_program(problem.network, deployed)
    plain = problem.network.detached()
    stages = tuple(replace(s, activation=s.activation.rounded(plain.dtype)) for s in plain.stages)
    wide = replace(plain, stages=stages).to(torch.float64)
    return Problem(wide, problem.region, pre=problem.pre, arithmetic=deployed.real, planner=problem.planner)


@final
@dataclass
class _Deviations:
    """Bounds of how far a program's numbers are from the real ones over a region; grows stage by stage.

    With the program's numbers ẑ_k and ĥ_k, made[k - 1] bounds |ẑ_k - (Σ A ĥ + b)|, before[k - 1] bounds |ẑ_k - z_k|,
    after[k] bounds |ĥ_k - h_k|, and own[k] bounds |ĥ_k - σ(ẑ_k)| or, for k = 0, what rounding the input changes.
    sizes[k] bounds |ĥ_k|.  slopes[k - 1]: the slopes of σ_k between all z_k and ẑ_k; None without an activation.
    All are of shape (batch, *node), in float64.
    """

    problem: Problem
    deployed: Deployed
    state: PreactivationState
    made: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    sizes: list[Tensor] = field(default_factory=list)
    slopes: list[Interval | None] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem, deployed: Deployed) -> _Deviations:
        """All stages, from the first to the last."""
        found = cls(problem, deployed, problem.preactivations())
        size = found.state.post(0).magnitude
        found._leave(size, input_error(size, deployed))
        for k, stage in enumerate(problem.network.stages, 1):
            found._enter(stage, k == problem.network.depth)
            if k < problem.network.depth:
                found._activate(stage, k)
        return found

    @property
    def outputs(self) -> Interval:
        """Between which numbers the outputs of the program lie."""
        return _wider(self.problem.output(self.state), self.before[-1], self.deployed)

    def _enter(self, stage: Stage, last: bool) -> None:
        """Bound the deviations of the next pre-activations: carried forward, |ẑ - z| <= Σ |A| |ĥ - h| + made.

        The other bound is that by gradients; in large networks it is only tried for the outputs.
        """
        real = self.deployed.real
        self.made.append(stage_error(stage, [self.sizes[e.source] for e in stage.edges], self.deployed))
        carried = [absolute(e.operator).push(real.exact(self.after[e.source])) for e in stage.edges]
        bound = reduce(lambda a, b: a + b, carried, real.exact(self.made[-1])).upper()
        if last or self.problem.network.cost <= _LARGE:
            bound = torch.fmin(bound, self._times_gradients())
        self.before.append(bound)

    def _activate(self, stage: Stage, k: int) -> None:
        """Carry the deviations through an activation: |ĥ - h| <= max |σ'| |ẑ - z| + own.

        The slopes are those over the range of z, enlarged by the bound of |ẑ - z|.
        """
        real, z = self.deployed.real, _wider(self.state.pre(k), self.before[-1], self.deployed)
        if stage.linear:
            self.slopes.append(None)
            self._leave(z.magnitude, torch.zeros_like(z.lower), self.before[-1])
            return
        values, slopes = stage.activation.value_range(z, real), stage.activation.slope_range(z, real)
        self.slopes.append(slopes)
        carried = (real.exact(slopes.magnitude) * real.exact(self.before[-1])).upper()
        self._leave(values.magnitude, activation_error(stage.activation, values, self.deployed), carried)

    def _leave(self, size: Tensor, own: Tensor, carried: Tensor | None = None) -> None:
        """Add a node whose exact function of the program's numbers is of at most this size."""
        real = self.deployed.real
        self.own.append(own)
        self.after.append(own if carried is None else (real.exact(carried) + real.exact(own)).upper())
        self.sizes.append((real.exact(size) + real.exact(own)).upper())

    def _times_gradients(self) -> Tensor:
        """Σ |G_z| made + |G_h| own over all nodes before the last stage entered, (batch, *stage), and its own `made`.

        G are the gradients of that stage's pre-activations for all slopes between z and ẑ.  ẑ_k - z_k =
        Σ A (ĥ - h) + e_k, and ĥ_k - h_k = s (ẑ_k - z_k) + e'_k with a slope s, by the mean value theorem an element of
        the hull of σ' between the two.  So the deviations are linear in the errors, and the coefficients are gradients
        of the network with these slopes.
        """
        real, chain = self.deployed.real, self._chain()
        known = Gradients(given=chain)
        rules = (FastLip(), Chords()) if chain.end == self.problem.network.depth else (FastLip(),)
        descend(known, rules)
        total = real.exact(self.made[-1].flatten(1))
        for k in range(chain.end):
            gradient = FastLip().node(known, k) if k == 0 else known.at(k)
            through = known.through(k) if k > 0 else None
            if gradient is not None:
                total = total + self._paid(gradient, self.own[k])
            if through is not None:
                total = total + self._paid(through, self.made[k - 1])
        return total.upper().nan_to_num(torch.inf, torch.inf).reshape(self.made[-1].shape)

    def _paid(self, gradient: Interval, errors: Tensor) -> Ball:
        """|G| · e for gradients (batch or 1, rows, *node) and errors (batch, *node): (batch, rows).

        Where G is 0, an infinite error costs nothing.
        """
        real, size, flat = self.deployed.real, gradient.magnitude.flatten(2), errors.flatten(1).unsqueeze(1)
        if bool(flat.isfinite().all()):
            return real.exact(flat.unsqueeze(2)).dot(real.exact(size)).map(lambda t: t.squeeze(-1))
        met = torch.where((size > 0) & ~flat.isfinite(), torch.inf, 0.0).amax(2)
        return real.exact(met)

    def _chain(self) -> ChainRule:
        """The chain rule of the pre-activations of the last stage entered, with the slopes between z and ẑ."""
        network, count = self.problem.network, len(self.made)
        return ChainRule(
            (network.input_shape, *(s.shape for s in network.stages[:count])),
            ((), *(s.edges for s in network.stages[:count])), (None, *self.slopes, None), None,
            self.problem.bound.batch, network.dtype, network.device, self.deployed.real, self.problem.planner,
        )  # fmt: skip


def _wider(z: Interval, by: Tensor, deployed: Deployed) -> Interval:
    """The interval enlarged on both sides."""
    real = deployed.real
    low, high = (real.exact(sign * end) + real.exact(by) for sign, end in ((-1.0, z.lower), (1.0, z.upper)))
    return Interval(-low.upper(), high.upper())
