"""Certified radii: how far an input may move while its class is proved to win; and the nearest adversary found.

The margin f_c - f_j is a network with one output.  It is positive at x, and cannot decrease faster than its local
Lipschitz constants allow (docs/mathematics.md, §7.1, §7.2).  Its own lower bound on a ball may also be positive.  The
two proofs can be combined: the bound up to some radius, and the Lipschitz constants from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, final

import torch
from torch import Tensor

from recurjac.applications.adversaries import said
from recurjac.applications.branched_margin import BranchedMargin
from recurjac.applications.centres import Centres, around
from recurjac.applications.certifying import Certifying, Entry
from recurjac.applications.deployed_radius import checked_margins
from recurjac.applications.dividing import TIME
from recurjac.applications.proofs import DEFAULT_PROOFS, AbstractRadiusProof, check_proofs
from recurjac.applications.radii import by_integral, by_margin, checked, least_proved, title_of
from recurjac.applications.radius_search import RadiusSearch, remark_on
from recurjac.applications.targets import check_classes, predicted, read_labels, rivals
from recurjac.deadline import check_time_limit
from recurjac.errors import expect
from recurjac.loading import Source
from recurjac.network import Network
from recurjac.norms import check_norm
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import LpBall, Numbers


@final
@dataclass(frozen=True, repr=False, eq=False)
class CertifiedRadius(AbstractResult):
    """Within `radius` of each input, in the l_p norm and the clip box, its `label` has a larger output than `target`.

    radius, attack: (batch,), float64.  The nearest adversary found, `adversary` (batch, *input), is at most at distance
    `attack`, which is infinite if none is known.  `attack_status` tells why: "found"; "none found" by the whole attack;
    "none found in time" by the part of it for which there was time; "not attacked".  Misclassified inputs are not
    attacked: `attack` is 0 if the input loses to a target, otherwise infinite.  Always radius <= attack.
    by_integral, by_margin: (batch,), the radii that slopes (Theorem 2), or bounds of the margin, prove alone.
    label, target: (batch,); with several targets, the one with the least radius.  rivals: for each input, all targets.
    margin: (batch,), a proved lower bound of f_label - f_target at the input.
    rounding: (batch,), a bound of what the rounding of a program may change of that margin within the radius, of which
    radii of deployed networks (`Deployed`) take account; 0 for the network in real arithmetic.
    proof: what proves each radius.  remark: why a radius is 0, infinite, or at the limit; otherwise empty.
    status: "exact" if the nearest adversary is at most a thousandth farther than the radius, or if it is infinite;
    "time" if the time was over before the search ended; "time", "parts" or "stuck" if proofs that divide balls
    (`BranchedMargin`) gave up the next larger ball for want of time or of parts, or because no part could be divided;
    "interrupted" if the user stopped them; otherwise "bounded".
    """

    radius: Tensor
    attack: Tensor
    by_integral: Tensor
    by_margin: Tensor
    label: Tensor
    target: Tensor
    margin: Tensor
    adversary: Tensor
    proof: tuple[str, ...]
    remark: tuple[str, ...]
    status: tuple[str, ...]
    p: float
    provenance: Provenance
    rivals: tuple[tuple[int, ...], ...] = ()
    rounding: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    attack_status: tuple[str, ...] = ()

    def __repr__(self) -> str:
        away = [said(a, why) for a, why in zip(self.attack.tolist(), self.attack_status, strict=True)]
        rows = zip(self.label, self.target, self.radius, away, self.remark, strict=True)
        words = (
            f"{int(c)} over {int(k)}: {float(r):.6g} … {a}{f' ({why})' if why else ''}" for c, k, r, a, why in rows
        )
        each = self._each(words, len(self.radius))
        return f"CertifiedRadius(l{self.p:g}, certified … attacked: {each}; {self._kind()})"


def certified_radius(
    network: Source | Problem,
    x: Numbers | LpBall | None = None,
    *,
    label: Any = None,
    p: float | None = None,
    target: Any = "runner-up",
    proofs: Sequence[AbstractRadiusProof] | None = None,
    search: RadiusSearch | None = None,
    time_limit: float | None = None,
) -> CertifiedRadius:
    """For each input, a proved radius within which its label keeps winning against the target.

    network: also what `load` reads, such as a module or a file, which is then read again in each call.
    x: one input or a batch, or an `LpBall`, whose centres, norm and clip box are used, but not its radius.  A `Problem`
    over an `LpBall` can replace network and x; its rule and arithmetic are used as well.
    label: one class for all inputs or one for each; by default the class that the network predicts (the lowest if
    several outputs are largest).  p: 1, 2 or inf, by default inf.
    target: "runner-up", "random" (drawn with the attack's seed), "least-likely", "all", or the number of a class, for
    all inputs or for each.  proofs: what is bounded on balls; their statements are combined (`radii.proved`).  The
    default is `MarginBound()` and `LipschitzIntegral()`, and with a time limit also `BranchedMargin()`.
    search: the radii to try, and the attack; no proof depends on it.  time_limit: seconds for all inputs together.
    With a `Problem` whose arithmetic is `Deployed`, the label wins in every program in that precision, and adversaries
    are such for every program.
    A misclassified input has radius 0, and so does an input whose margin is not proved to be positive.
    Raises InvalidRegion for inputs that do not fit the network, InvalidRequest for invalid labels, targets, norms and
    proofs, and for two time limits, UnsoundBounds for an adversary within the radius, which indicates a bug.

    Source: arXiv:1810.11783, Theorem 2 and Section 4.3; docs/mathematics.md, §7.1, §7.2.
    """
    asked, ball = around(network, x, None if p is None else check_norm(p, "input"))
    how = search or RadiusSearch()
    expect(how, RadiusSearch, "the search", "give RadiusSearch(intervals, limit, attack)")
    check_time_limit(time_limit, search=None if how.time_limit == inf else search)
    if time_limit is not None:
        how = replace(how, time_limit=time_limit / asked.bound.batch)
    if proofs is None:
        proofs = DEFAULT_PROOFS if time_limit is None else (*DEFAULT_PROOFS, BranchedMargin())
    check_proofs(proofs, asked, ball.p)
    flat = _classifier(asked.network)
    reasons = dict.fromkeys(reason for proof in proofs for reason in proof.unproved_rounding(ball.p))
    problem = asked.of(flat).covering(list(reasons))
    deployed = checked_margins(problem)
    with torch.no_grad():
        outputs = flat(problem.bound.x)
        labels = read_labels(label, outputs)
        against = rivals(target, labels, outputs, how.attack.seed)
        centres = Centres.of(ball, flat.input_shape)
        work = Certifying(problem.in_reals(), centres, tuple(proofs), how, deployed=deployed)
        found = work.entries(labels, against, [int(k) for k in predicted(outputs)])
    return _result(found, work)


def _classifier(network: Network) -> Network:
    """The network with a vector of outputs.  Raises InvalidRequest if there are fewer than two."""
    flat = network.flattened_output()
    check_classes(flat.output_shape[0])
    return flat


def _result(entries: Sequence[Entry], work: Certifying) -> CertifiedRadius:
    proofs = [e.proof for e in entries]
    attack = _numbers(e.nearest.distance for e in entries)
    radius = checked(_numbers(f.radius for f in proofs), attack, work.problem.arithmetic)
    ways = (by_integral, by_margin)
    alone = [_numbers(0.0 if e.remark else least_proved(way(e.rungs)) for e in entries) for way in ways]
    limit, each = work.search.limit, zip(entries, radius.tolist(), strict=True)
    remarks = [e.remark or remark_on(r, limit, e.end == TIME) for e, r in each]
    titles = dict.fromkeys(proof.title(work.problem) for proof in work.proofs)
    return CertifiedRadius(
        radius, attack, torch.minimum(alone[0], radius), torch.minimum(alone[1], radius),
        torch.tensor([e.label for e in entries]), torch.tensor([e.target for e in entries]),
        _numbers(e.rungs[0].margins[e.row] for e in entries),
        torch.stack([e.nearest.point.cpu() for e in entries]),
        tuple(title_of(f, e.rungs) for f, e in zip(proofs, entries, strict=True)), tuple(remarks),
        tuple(e.end for e in entries), work.centres.p, _provenance(work, ", ".join(titles)),
        tuple(e.others for e in entries), _numbers(e.rounding for e in entries),
        tuple(e.nearest.status for e in entries),
    )  # fmt: skip


def _provenance(work: Certifying, titles: str) -> Provenance:
    """The provenance of the radii, which names the program if they hold for it."""
    if work.deployed is None:
        return work.problem.provenance(titles)
    return work.problem.of_program(work.deployed).provenance(titles, "for every order of summation of the program")


def _numbers(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
