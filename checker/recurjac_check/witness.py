"""What the witness of a leaf proves: ranges of values and of gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

from flint import arb, arb_mat

from recurjac_check import reading
from recurjac_check.affine import Affine, Matrix
from recurjac_check.errors import Empty, Invalid
from recurjac_check.functions import ONE, Edge, Elementwise, Numbers, Pieces, Slopes
from recurjac_check.network import Network, Stage
from recurjac_check.quadratic import Chain, Multipliers, lengths
from recurjac_check.region import ZERO, Region, larger, smaller
from recurjac_check.system import Edges, Forms, Known, Relation, System, point_supremum

Ends = tuple[Numbers, Numbers]
Cut = tuple[int, int, arb, bool]
"""A stage, a place in it, a number, and whether the pre-activation there is at most this number, or else at least."""


def node(system: System, affine: Affine, relation: Relation, slopes: int, value: Any, where: str, ends: Ends) -> Known:
    """A node whose pre-activations are proved to lie between the finite ends that are claimed. Raises Invalid.

    `ends` of them are proved already, and are taken where none are claimed.
    """
    l, u = ends
    below: Slopes = None
    above: Slopes = None
    if value is not None:
        reading.record(value, where, "lower upper lower_slope upper_slope")
        for sign, own, key in ((1, u, "upper"), (-1, l, "lower")):
            claimed = reading.numbers(value[key], f"{where}.{key}", len(affine), infinite=True)
            system.prove(affine, own, claimed, sign, f"{where}: {key} end")
            own[:] = [b if b.is_finite() else a for a, b in zip(own, claimed, strict=True)]
        below, above = (reading.optional(value[k], f"{where}.{k}", slopes) for k in ("lower_slope", "upper_slope"))
    if any(a > b for a, b in zip(l, u, strict=True)):
        raise Empty(f"{where}: the ranges are disjoint")
    if not all(a.is_finite() and b.is_finite() and a <= b for a, b in zip(l, u, strict=True)):
        raise Invalid(f"{where}: no finite range is proved")
    return Known(affine, relation, l, u, below, above)


def within_windows(system: System, stage: Stage, ends: Ends) -> Ends:
    """The ends, within those of differences of maxima."""
    if not stage.windows:
        return ends
    (l, u), (low, high) = ends, system.interval(stage.source)
    for i, pair in enumerate(stage.windows):
        if pair is not None:
            (least, most), (off, up) = ([reduce(larger, (e[j] for j in part)) for e in (low, high)] for part in pair)
            l[i], u[i] = larger(l[i], (least - up).lower()), smaller(u[i], (most - off).upper())
    return l, u


def combined(affine: Affine, rows: Sequence[reading.Row]) -> Affine:
    """Linear functions of affine functions."""
    forms = [dict(row) for row in rows]
    constant = [sum((c * affine.constant[i] for i, c in row), ZERO) for row in rows]
    return Affine({s: Matrix(m.after(forms), m.columns) for s, m in affine.blocks.items()}, constant)


def spread(block: Matrix, edges: list[Edge], side: int, elementwise: bool) -> Matrix:
    """A matrix by outputs (side 0) or pre-activations (side 1) of a stage as one by its edges."""
    if elementwise:
        return block
    places: list[list[int]] = [[] for _ in range(block.columns)]
    for e, (output, argument, _, _) in enumerate(edges):
        places[argument if side else output].append(e)
    return Matrix([{e: w for j, w in row.items() for e in places[j]} for row in block.rows], len(edges))


def backward(network: Network, edges: list[list[Edge]], source: int) -> Affine:
    """The gradient by a source; in this system source K - k is stage k, and source 0 the row."""
    total = len(network.stages)
    count = network.stages[source - 1].outputs if source else network.inputs
    blocks = {0: network.outputs.blocks[source].transposed} if source in network.outputs.blocks else {}
    for k in range(source, total):
        stage = network.stages[k]
        if source in stage.pre.blocks:
            block = stage.pre.blocks[source].transposed
            blocks[total - k] = spread(block, edges[k], 1, stage.function.arguments == 1)
    return Affine(blocks, [ZERO] * count)


def at_point(network: Network, point: Numbers) -> System:
    """Values at a point."""
    system = System(point_supremum(point))
    for stage in network.stages:
        system.nodes.append(Known(stage.pre, stage.function, *system.interval(stage.pre)))
    return system


def forward(network: Network, edges: list[list[Edge]], affine: Affine) -> Affine:
    """An affine function of inputs and outputs as one of inputs and edges, without its constant."""
    blocks = {
        s: spread(block, edges[s - 1], 0, network.stages[s - 1].function.arguments == 1) if s else block
        for s, block in affine.blocks.items()
    }
    return Affine(blocks, [ZERO] * len(affine))


def chain(network: Network, edges: list[list[Edge]]) -> Chain:
    """The nodes of the chain rule up to the stages whose edges are given."""
    stages = zip(network.stages[: len(edges)], edges, strict=True)
    return Chain([(forward(network, edges, s.pre), [(j, d, most) for _, j, d, most in own]) for s, own in stages])


def derivative(network: Network, point: Numbers, direction: Numbers, rows: Sequence[reading.Row]) -> Numbers:
    """Balls that hold the derivatives of rows at a point in a direction."""
    edges = [s.function.edges(v.l, v.u) for s, v in zip(network.stages, at_point(network, point).nodes, strict=True)]
    system = System(point_supremum(direction))
    for affine, slopes in chain(network, edges).nodes:
        system.nodes.append(Known(affine, Edges(slopes), *system.interval(affine)))
    low, high = system.interval(forward(network, edges, combined(network.outputs, rows)))
    return [a.union(b) for a, b in zip(low, high, strict=True)]


@dataclass(eq=False)
class Leaf:
    """A part of the region, or the points of it that cuts leave, with its witness."""

    network: Network
    region: Region
    witness: Any
    where: str
    cuts: Sequence[Cut] = ()

    def __post_init__(self) -> None:
        """Nothing of a gradient is known before it is asked for."""
        self._systems: dict[str, System] = {}
        self._centres: dict[bool, System] = {}
        self._entries: dict[tuple[bool, str], tuple[Numbers, Numbers]] = {}

    @cached_property
    def values(self) -> System:
        """The ranges of all pre-activations, proved."""
        where, own = f"{self.where}.values", self.network.stages
        stages = reading.array(self._own_values["stages"], f"{where}.stages", len(own))
        system = System(self.region.supremum)
        for k, (stage, value) in enumerate(zip(own, stages, strict=True)):
            n, ends = len(stage.pre), within_windows(system, stage, self.ends(system, stage.pre))
            for i, at, below in self._cuts(k):
                ends[below][i] = smaller(ends[1][i], at) if below else larger(ends[0][i], at)
            system.nodes.append(node(system, stage.pre, stage.function, n, value, f"{where}.stages[{k}]", ends))
        return system

    def _cuts(self, stage: int) -> list[tuple[int, arb, bool]]:
        return [(i, at, below) for k, i, at, below in self.cuts if k == stage]

    @cached_property
    def is_empty(self) -> bool:
        """Whether the ranges, or the multipliers of the row 0, prove that no point is left."""
        try:
            return bool(self.values) and bool(self._by_cuts((), 1) < 0)
        except Empty:
            return True

    @cached_property
    def _multipliers(self) -> dict[tuple[str, int], Numbers]:
        """Those of the cuts, by rows and signs."""
        found, keys = {}, (("lower", -1), ("upper", 1))
        for n, value in enumerate(reading.array(self.witness["halfspaces"], f"{self.where}.halfspaces")):
            where = f"{self.where}.halfspaces[{n}]"
            row = reading.row(reading.record(value, where, "row lower upper")["row"], where, len(self.network.outputs))
            for key, sign in keys:
                own = reading.optional(value[key], f"{where}.{key}", len(self.cuts)) or [ZERO] * len(self.cuts)
                if not all(w >= 0 for w in own):
                    raise Invalid(f"{where}.{key} is negative")
                found[reading.row_key(row), sign] = own
        return found

    def _by_cuts(self, row: reading.Row, sign: int) -> arb:
        """What sign times a row does not exceed, by lines and multipliers of the cuts; infinite without any."""
        weights = self._multipliers.get((reading.row_key(row), sign))
        if weights is None:
            return arb.pos_inf()
        affine = combined(self.network.outputs, [tuple((i, sign * c) for i, c in row)])
        constant, more = affine.constant[0], Forms()
        for (k, i, at, below), w in zip(self.cuts, weights, strict=True):
            step = -w if below else w
            (form,) = more.setdefault(k + 1, [{}])
            form[i] = form.get(i, ZERO) + step
            constant -= step * at
        return self.values.maxima({s: list(m.rows) for s, m in affine.blocks.items()}, [constant], more)[0]

    def rows(self, rows: Sequence[reading.Row]) -> tuple[Affine, Numbers, Numbers]:
        """Rows of outputs, and bounds of them, by intervals and by multipliers."""
        affine = combined(self.network.outputs, rows)
        l, u = self.ends(self.values, affine)
        l = [larger(a, -self._by_cuts(row, -1)) for a, row in zip(l, rows, strict=True)]
        return affine, l, [smaller(a, self._by_cuts(row, 1)) for a, row in zip(u, rows, strict=True)]

    @cached_property
    def _own_values(self) -> Any:
        return reading.record(self.witness["values"], f"{self.where}.values", "stages quadratic")

    def _centre(self, euclidean: bool, where: str) -> tuple[System, Numbers]:
        """Values at the centre of the ball or of the box, and how far from it inputs are."""
        centre, halves = self.region.around(euclidean, where)
        if euclidean not in self._centres:
            self._centres[euclidean] = at_point(self.network, centre)
        return self._centres[euclidean], halves

    def ends(self, system: System, affine: Affine) -> Ends:
        """Bounds of a function of known nodes, by intervals and by the multipliers of the next node, if any."""
        l, u = system.interval(affine)
        k, where, value = len(system.nodes), f"{self.where}.values.quadratic", self._own_values["quadratic"]
        if value is None or reading.array(value, where, len(self.network.stages) + 1)[k] is None:
            return l, u
        where, sizes = f"{where}[{k}]", [len(node.affine) for node in system.nodes]
        given = Multipliers.read(value[k], where, self.network.inputs, sizes)
        at, halves = self._centre(given.weights is None, where)
        middles = [[a.union(b) for a, b in zip(own.l, own.u, strict=True)] for own in at.nodes]
        known = zip(self.network.stages, system.nodes, middles, strict=False)
        secants = [stage.function.secants(node.l, node.u, c) for stage, node, c in known]
        gram = chain(self.network, secants).reach(
            forward(self.network, secants, affine), given.start(halves), given, where
        )
        low, high = at.interval(affine)
        spread = list(zip(low, high, lengths(gram), strict=True))
        return (
            [larger(a, (c - s).lower()) for a, (c, _, s) in zip(l, spread, strict=True)],
            [smaller(a, (c + s).upper()) for a, (_, c, s) in zip(u, spread, strict=True)],
        )

    @cached_property
    def edges(self) -> list[list[Edge]]:
        """The slopes of all stages; at a kink where a cut ends, those on the inner side."""
        return [self._edges(k, node) for k, node in enumerate(self.values.nodes)]

    def _edges(self, k: int, node: Known) -> list[Edge]:
        function, l, u = self.network.stages[k].function, list(node.l), list(node.u)
        for i, at, below in self._cuts(k):
            own = function.f(i) if isinstance(function, Elementwise) else None
            if isinstance(own, Pieces):
                l[i], u[i] = own.inside(l[i], u[i], at, below)
        return function.edges(l, u)

    def gradient(self, row: reading.Row) -> System:
        """The ranges of the gradients of a row, proved."""
        key = reading.row_key(row)
        if key not in self._systems:
            self._systems[key] = self._gradient(key, row)
        return self._systems[key]

    def _gradient(self, key: str, row: reading.Row) -> System:
        outputs, total = len(self.network.outputs), len(self.network.stages)
        for n, value in enumerate(reading.array(self.witness["gradients"], f"{self.where}.gradients")):
            where = f"{self.where}.gradients[{n}]"
            if reading.record(value, where, "row stages quadratic")["quadratic"] is not None:
                raise Invalid(f"{where}.quadratic is not null")
            stages = reading.array(value["stages"], f"{where}.stages", total)
            if reading.row_key(reading.row(value["row"], f"{where}.row", outputs)) == key:
                break
        else:
            raise Invalid(f"{self.where} has no gradient of this row")
        coefficients = dict(row)
        system = System(point_supremum([coefficients.get(i, ZERO) for i in range(outputs)]))
        for k in reversed(range(total)):
            edges = [(i, d, most) for i, _, d, most in self.edges[k]]
            affine = backward(self.network, self.edges, k + 1)
            ends = system.interval(affine)
            found = node(system, affine, Edges(edges), len(edges), stages[k], f"{where}.stages[{k}]", ends)
            if (found.below or found.above) and self.network.stages[k].function.arguments > 1:
                raise Invalid(f"{where}.stages[{k}] has slopes, and is not elementwise")
            system.nodes.append(found)
        return system

    def jacobian(self, row: reading.Row, lines: bool) -> tuple[Numbers, Numbers]:
        """Bounds of the entries of a row, by lines too or by intervals only."""
        key = lines, reading.row_key(row)
        if key not in self._entries:
            system, affine = self.gradient(row), backward(self.network, self.edges, 0)
            self._entries[key] = system.bounds(affine) if lines else system.interval(affine)
        return self._entries[key]

    def reach(self, rows: Sequence[reading.Row], p: str) -> arb_mat:
        """G with (c J v)² <= c G cᵀ for the Jacobian J of rows, all c and all v with a p-norm of at most 1."""
        where, sizes = f"{self.where}.tangents", [len(stage.pre) for stage in self.network.stages]
        if self.witness["tangents"] is None:
            raise Invalid(f"{where} is null")
        given = Multipliers.read(self.witness["tangents"], where, self.network.inputs, sizes)
        if given.weights is None and p == "inf":
            raise Invalid(f"{where} has no weights")
        wanted = forward(self.network, self.edges, combined(self.network.outputs, rows))
        start = given.start([ONE] * self.network.inputs)
        return chain(self.network, self.edges).reach(wanted, start, given, where)

    def row_sum(self, row: reading.Row) -> arb:
        """A bound of the sum of absolute values of a row: of each, or of their chords, which are bounded together."""
        form, rest, plain = {}, ZERO, ZERO
        for i, (l, u) in enumerate(zip(*self.jacobian(row, True), strict=True)):
            s = ((abs(u) - abs(l)) / (u - l)).mid() if l < u else ZERO
            plain += larger(abs(l), abs(u))
            rest += larger((abs(l) - s * l).upper(), (abs(u) - s * u).upper())
            form[i] = s
        affine = backward(self.network, self.edges, 0)
        (total,) = self.gradient(row).maxima({s: m.after([form]) for s, m in affine.blocks.items()}, [rest])
        return smaller(total, plain.upper())
