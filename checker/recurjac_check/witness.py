"""What the witness of a leaf proves: ranges of values, of gradients, and quadratic forms of tangents."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flint import arb

from recurjac_check import reading
from recurjac_check.affine import Affine, Matrix
from recurjac_check.errors import Empty, Invalid, missed
from recurjac_check.functions import Edge, Elementwise, Numbers, Pieces, Slopes
from recurjac_check.network import Network
from recurjac_check.quadratic import Ellipsoid
from recurjac_check.region import ZERO, Region, larger, smaller
from recurjac_check.system import Edges, Known, System, point_supremum

Cut = tuple[arb, arb]
Claimed = tuple[Numbers, Numbers, Slopes, Slopes] | None
_KEYS = "lower upper lower_slope upper_slope"


def claimed(value: Any, where: str, n: int, slopes: int) -> Claimed:
    """What a witness says of a stage."""
    if value is None:
        return None
    reading.record(value, where, _KEYS)
    ends = [reading.numbers(value[k], f"{where}.{k}", n, infinite=True) for k in ("lower", "upper")]
    lines = [reading.optional(value[k], f"{where}.{k}", slopes) for k in ("lower_slope", "upper_slope")]
    return ends[0], ends[1], lines[0], lines[1]


def proved(
    system: System, affine: Affine, claim: Claimed, where: str, cuts: dict[int, Cut], quadratic: tuple[Numbers, Numbers] | None
) -> tuple[Numbers, Numbers]:
    """Ends of pre-activations, at least as good as those that are claimed. Raises Invalid."""
    l, u = system.interval(affine)
    for i, (low, high) in cuts.items():
        l[i], u[i] = larger(l[i], low), smaller(u[i], high)
    for sign, own, ends in ((1, u, claim[1]), (-1, l, claim[0])) if claim is not None else ():
        pending = [i for i, c in enumerate(ends) if c.is_finite() and not sign * own[i] <= sign * c]
        above = system.above(affine, pending, sign) if pending else []
        for i, bound in zip(pending, above, strict=True):
            if quadratic is not None and not bound <= sign * ends[i]:
                bound = smaller(bound, (sign * quadratic[0][i] + quadratic[1][i]).upper())
            if not bound <= sign * ends[i]:
                raise missed(f"{where}: {'upper' if sign > 0 else 'lower'} end {i}", ends[i], sign * bound)
        for i, c in enumerate(ends):
            if c.is_finite():
                own[i] = smaller(own[i], c) if sign > 0 else larger(own[i], c)
            elif c * sign < 0:
                raise Invalid(f"{where}: end {i} is infinite on the wrong side")
    if not all(a.is_finite() and b.is_finite() for a, b in zip(l, u, strict=True)):
        raise Invalid(f"{where}: no finite range is proved")
    if not all(a <= b for a, b in zip(l, u, strict=True)):
        raise Empty(where)
    return l, u


def _stages(value: Any, where: str, count: int) -> list[Any]:
    return reading.array(value["stages"], f"{where}.stages", count)


def combined(affine: Affine, rows: Sequence[reading.Row]) -> Affine:
    """Linear functions of affine functions."""
    forms = [dict(row) for row in rows]
    constant = [sum((c * affine.constant[i] for i, c in row), ZERO) for row in rows]
    return Affine({s: Matrix(m.after(forms), m.columns) for s, m in affine.blocks.items()}, constant)


def _places(edges: list[Edge], side: int, count: int) -> list[list[int]]:
    """For each output (side 0) or pre-activation (side 1) its edges."""
    places: list[list[int]] = [[] for _ in range(count)]
    for e, edge in enumerate(edges):
        places[edge[side]].append(e)
    return places


@dataclass(eq=False)
class Chain:
    """The chain rule: a network, and the slopes of its stages."""

    network: Network
    edges: list[list[Edge]]

    def backward(self, source: int) -> Affine:
        """The gradient by a source; source K - k is stage k, and source 0 the row."""
        network = self.network
        total = len(network.stages)
        count = network.stages[source - 1].outputs if source else network.inputs
        blocks = {0: network.outputs.blocks[source].transposed} if source in network.outputs.blocks else {}
        for k in range(source, total):
            stage = network.stages[k]
            if source in stage.pre.blocks:
                block = stage.pre.blocks[source].transposed
                if not stage.function.elementwise:
                    block = block.spread(_places(self.edges[k], 1, len(stage.pre)), len(self.edges[k]))
                blocks[total - k] = block
        return Affine(blocks, [ZERO] * count)

    def forward(self, affine: Affine) -> Affine:
        """The tangent of an affine function."""
        blocks = {}
        for s, block in affine.blocks.items():
            elementwise = not s or self.network.stages[s - 1].function.elementwise
            edges = self.edges[s - 1] if s else []
            blocks[s] = block if elementwise else block.spread(_places(edges, 0, block.columns), len(edges))
        return Affine(blocks, [ZERO] * len(affine))

    def tangents(self) -> list[tuple[Affine, list[tuple[int, arb, arb]]]]:
        """The nodes of the system of tangents."""
        pairs = zip(self.network.stages, self.edges, strict=True)
        return [(self.forward(stage.pre), [(j, d, most) for _, j, d, most in edges]) for stage, edges in pairs]


def at_point(network: Network, point: Numbers) -> System:
    """Values at a point."""
    system = System(point_supremum(point))
    for stage in network.stages:
        system.nodes.append(Known(stage.pre, stage.function, *system.interval(stage.pre)))
    return system


def derivative(network: Network, point: Numbers, direction: Numbers, rows: Sequence[reading.Row]) -> Numbers:
    """Balls that hold the derivatives of rows at a point in a direction."""
    values = at_point(network, point)
    chain = Chain(network, [s.function.edges(v.l, v.u, {}) for s, v in zip(network.stages, values.nodes, strict=True)])
    system = System(point_supremum(direction))
    for affine, edges in chain.tangents():
        system.nodes.append(Known(affine, Edges(edges), *system.interval(affine)))
    low, high = system.interval(chain.forward(combined(network.outputs, rows)))
    return [a.union(b) for a, b in zip(low, high, strict=True)]


@dataclass(eq=False)
class Leaf:
    """A part of the region with its witness."""

    network: Network
    region: Region
    cuts: dict[int, dict[int, Cut]]
    witness: Any
    where: str

    @cached_property
    def values(self) -> System:
        """The ranges of all pre-activations, proved."""
        record = reading.record(self.witness["values"], f"{self.where}.values", "stages quadratic")
        stages = _stages(record, f"{self.where}.values", len(self.network.stages))
        system, secants = System(self.region.supremum), None
        if record["quadratic"] is not None:
            secants = Secants(self, record["quadratic"], f"{self.where}.values.quadratic")
        for k, (stage, value) in enumerate(zip(self.network.stages, stages, strict=True)):
            where = f"{self.where}.values.stages[{k}]"
            claim = claimed(value, where, len(stage.pre), len(stage.pre))
            bound = secants.bounds(k) if secants is not None else None
            l, u = proved(system, stage.pre, claim, where, self.cuts.get(k, {}), bound)
            lines = claim[2:] if claim is not None else (None, None)
            system.nodes.append(Known(stage.pre, stage.function, l, u, *lines))
            if secants is not None:
                secants.extend(k, l, u)
        return system

    @cached_property
    def chain(self) -> Chain:
        """The slopes of all stages."""
        edges = []
        for k, (stage, node) in enumerate(zip(self.network.stages, self.values.nodes, strict=True)):
            cuts = {i: (bool(node.l[i] == a), bool(node.u[i] == b)) for i, (a, b) in self.cuts.get(k, {}).items()}
            edges.append(stage.function.edges(node.l, node.u, cuts))
        return Chain(self.network, edges)

    def gradient(self, row: reading.Row) -> System:
        """The ranges of the gradients of a row, proved."""
        key = reading.row_key(row)
        if key not in self._systems:
            self._systems[key] = self._gradient(row)
        return self._systems[key]

    @cached_property
    def _systems(self) -> dict[str, System]:
        return {}

    @cached_property
    def _gradients(self) -> dict[str, tuple[int, Any]]:
        found = {}
        for n, value in enumerate(reading.array(self.witness["gradients"], f"{self.where}.gradients")):
            where = f"{self.where}.gradients[{n}]"
            reading.record(value, where, "row stages quadratic")
            found[reading.row_key(reading.row(value["row"], f"{where}.row", len(self.network.outputs)))] = (n, value)
        return found

    def _gradient(self, row: reading.Row) -> System:
        if reading.row_key(row) not in self._gradients:
            raise Invalid(f"{self.where} has no gradient of this row")
        n, value = self._gradients[reading.row_key(row)]
        where, total = f"{self.where}.gradients[{n}]", len(self.network.stages)
        stages = _stages(value, where, total)
        vector = [ZERO] * len(self.network.outputs)
        for i, c in row:
            vector[i] = c
        system = System(point_supremum(vector))
        affines = {k: self.chain.backward(k + 1) for k in range(total)}
        form = multipliers = None
        if value["quadratic"] is not None:
            multipliers = _multipliers(value["quadratic"], f"{where}.quadratic", self.chain.edges, 0)[1]
            form = Ellipsoid([[a * b for b in vector] for a in vector])
        for k in reversed(range(total)):
            edges = [(i, d, most) for i, _, d, most in self.chain.edges[k]]
            claim = claimed(stages[k], f"{where}.stages[{k}]", len(affines[k]), len(edges))
            if claim is not None and (claim[2] or claim[3]) and not self.network.stages[k].function.elementwise:
                raise Invalid(f"{where}.stages[{k}] has slopes, and is not elementwise")
            bound = _deviations(form, affines[k], [ZERO] * len(affines[k]))
            l, u = proved(system, affines[k], claim, f"{where}.stages[{k}]", {}, bound)
            system.nodes.append(Known(affines[k], Edges(edges), l, u, *(claim[2:] if claim is not None else ())))
            if form is not None and multipliers is not None:
                form.extend(affines[k], edges, multipliers[k], total - k, (affines[i] for i in range(k)))
        return system

    def jacobian(self, row: reading.Row, lines: bool) -> tuple[Numbers, Numbers]:
        """Bounds of the entries of a row, by lines too or by intervals only."""
        key = f"{lines} {reading.row_key(row)}"
        if key not in self._entries:
            system, affine = self.gradient(row), self.chain.backward(0)
            self._entries[key] = system.bounds(affine) if lines else system.interval(affine)
        return self._entries[key]

    @cached_property
    def _entries(self) -> dict[str, tuple[Numbers, Numbers]]:
        return {}

    def row_sum(self, row: reading.Row) -> arb:
        """A bound of the sum of absolute values of a row: each is below its chord, and these are bounded together."""
        low, high = self.jacobian(row, True)
        form, rest = {}, ZERO
        for i, (l, u) in enumerate(zip(low, high, strict=True)):
            s = ((abs(u) - abs(l)) / (u - l)).mid() if l < u else ZERO
            rest += larger((abs(l) - s * l).upper(), (abs(u) - s * u).upper())
            form[i] = s
        affine = self.chain.backward(0)
        forms = {s: block.after([form]) for s, block in affine.blocks.items()}
        return self.gradient(row).maxima(forms, [rest])[0]

    def covariance(self, rows: Sequence[reading.Row], p: str) -> Any:
        """Q with (J v)(J v)' <= Q for v in the unit ball of the norm p."""
        where = f"{self.where}.tangents"
        record = reading.record(self.witness["tangents"], where, "quadratics")
        for n, value in enumerate(reading.array(record["quadratics"], where)):
            at = f"{where}.quadratics[{n}]"
            reading.record(value, at, "rows from quadratic")
            own = [reading.row(r, at, len(self.network.outputs)) for r in reading.array(value["rows"], at)]
            if list(map(reading.row_key, own)) == list(map(reading.row_key, rows)) and value["from"] == p:
                return self._covariance(rows, p, value["quadratic"], f"{at}.quadratic")
        raise Invalid(f"{where} has no quadratic form of these rows")

    def _covariance(self, rows: Sequence[reading.Row], p: str, value: Any, where: str) -> Any:
        n, nodes = self.network.inputs, self.chain.tangents()
        weights, multipliers = _multipliers(value, where, self.chain.edges, n)
        form = Ellipsoid(_ball([arb(1)] * n, weights if p == "inf" else None, where, p == "inf"))
        last = self.chain.forward(combined(self.network.outputs, rows))
        for k, (affine, edges) in enumerate(nodes):
            later = [a for a, _ in nodes[k + 1 :]] + [last]
            form.extend(affine, edges, multipliers[k], k + 1, later)
        return form.covariance(last)


def _multipliers(value: Any, where: str, edges: list[list[Edge]], n: int) -> tuple[Slopes, list[Slopes]]:
    reading.record(value, where, "weights multipliers")
    stages = reading.array(value["multipliers"], f"{where}.multipliers", len(edges))
    found = [reading.optional(s, f"{where}.multipliers", len(e)) for s, e in zip(stages, edges, strict=True)]
    return reading.optional(value["weights"], f"{where}.weights", n), found


def _ball(radii: Numbers, weights: Slopes, where: str, boxed: bool) -> list[Numbers]:
    """P for the start: radius^2 for a ball, radius^2 / weight for a box."""
    n = len(radii)
    if boxed and (weights is None or not all(w > 0 for w in weights) or not sum(weights, ZERO) <= 1):
        raise Invalid(f"{where}.weights are not positive with a sum of at most 1")
    squares = [r * r / (weights[i] if weights is not None else 1) for i, r in enumerate(radii)]
    return [[squares[i] if i == j else ZERO for j in range(n)] for i in range(n)]


def _deviations(form: Ellipsoid | None, affine: Affine, center: Numbers) -> tuple[Numbers, Numbers] | None:
    """The centre of each pre-activation and how far it is from there at most."""
    if form is None:
        return None
    q = form.covariance(affine)
    return center, [larger(q[i, i].upper(), ZERO).sqrt() for i in range(len(affine))]


class Secants:
    """Deviations from the point in the middle of the box, by slopes of secants."""

    def __init__(self, leaf: Leaf, value: Any, where: str) -> None:
        self.stages, region = leaf.network.stages, leaf.region
        if not all(isinstance(s.function, Elementwise) for s in self.stages):
            raise Invalid(f"{where}: a stage is not elementwise")
        boxed = region.norm not in ("1", "2")
        center = [m.mid() for m in region.middle] if boxed else region.center
        self.center = at_point(leaf.network, center).nodes
        edges = [[(i, i, ZERO, ZERO) for i in range(len(s.pre))] for s in self.stages]
        weights, self.multipliers = _multipliers(value, where, edges, len(center))
        halves = [h + abs(m - c) for h, m, c in zip(region.halves, region.middle, center, strict=True)]
        start = [h.upper() for h in halves] if boxed else [region.radius] * len(center)
        self.form = Ellipsoid(_ball(start, weights if boxed else None, where, boxed))

    def bounds(self, k: int) -> tuple[Numbers, Numbers] | None:
        """Bounds of the pre-activations of stage k."""
        middles = [l.union(u) for l, u in zip(self.center[k].l, self.center[k].u, strict=True)]
        return _deviations(self.form, self.stages[k].pre, middles)

    def extend(self, k: int, l: Numbers, u: Numbers) -> None:
        """Go through the secants of stage k."""
        edges = []
        function, center = self.stages[k].function, self.center[k]
        for i, (a, b) in enumerate(zip(l, u, strict=True)):
            low, high = smaller(a, center.l[i]), larger(b, center.u[i])
            assert isinstance(function, Elementwise)
            edges.append((i, *_secants(function.f(i), low, high, center.l[i], center.u[i])))
        later = [s.pre for s in self.stages[k + 1 :]]
        self.form.extend(self.stages[k].pre, edges, self.multipliers[k], k + 1, later)


def _secants(f: Any, l: arb, u: arb, c: arb, d: arb) -> tuple[arb, arb]:
    """Bounds of the slopes of secants from points of [c, d] to those of [l, u]; by the mean value theorem, of derivatives between.

    With one kink, f is convex or concave, so that a secant's slope is monotone in both of its ends.
    """
    if isinstance(f, Pieces) and len(f.kinks) == 1 and l < c and d < u:
        slopes = [(f.value(x) - f.value(y)) / (x - y) for x in (l, u) for y in (c, d)]
        return min(s.lower() for s in slopes), max(s.upper() for s in slopes)
    return f.slopes(l, u, (False, False))  # type: ignore[no-any-return]
