"""What the witness of a leaf proves: ranges of values and of gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flint import arb

from recurjac_check import reading
from recurjac_check.affine import Affine, Matrix
from recurjac_check.errors import Invalid
from recurjac_check.functions import Edge, Numbers, Slopes
from recurjac_check.network import Network
from recurjac_check.region import ZERO, Region, larger, smaller
from recurjac_check.system import Edges, Known, Relation, System, point_supremum


def node(system: System, affine: Affine, relation: Relation, slopes: int, value: Any, where: str) -> Known:
    """A node with proved ends of its pre-activations, at least as good as those that are claimed. Raises Invalid."""
    l, u = system.interval(affine)
    below: Slopes = None
    above: Slopes = None
    if value is not None:
        reading.record(value, where, "lower upper lower_slope upper_slope")
        for sign, own, key in ((1, u, "upper"), (-1, l, "lower")):
            ends = reading.numbers(value[key], f"{where}.{key}", len(affine), infinite=True)
            system.prove(affine, own, ends, sign, f"{where}: {key} end")
            own[:] = [smaller(a, b) if sign > 0 else larger(a, b) for a, b in zip(own, ends, strict=True)]
        below, above = (reading.optional(value[k], f"{where}.{k}", slopes) for k in ("lower_slope", "upper_slope"))
    if not all(a.is_finite() and b.is_finite() and a <= b for a, b in zip(l, u, strict=True)):
        raise Invalid(f"{where}: no finite range is proved")
    return Known(affine, relation, l, u, below, above)


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


def derivative(network: Network, point: Numbers, direction: Numbers, rows: Sequence[reading.Row]) -> Numbers:
    """Balls that hold the derivatives of rows at a point in a direction."""
    edges = [s.function.edges(v.l, v.u) for s, v in zip(network.stages, at_point(network, point).nodes, strict=True)]
    system = System(point_supremum(direction))

    def forward(affine: Affine) -> Affine:
        blocks = {
            s: spread(block, edges[s - 1], 0, network.stages[s - 1].function.arguments == 1) if s else block
            for s, block in affine.blocks.items()
        }
        return Affine(blocks, [ZERO] * len(affine))

    for stage, own in zip(network.stages, edges, strict=True):
        affine = forward(stage.pre)
        system.nodes.append(Known(affine, Edges([(j, d, most) for _, j, d, most in own]), *system.interval(affine)))
    low, high = system.interval(forward(combined(network.outputs, rows)))
    return [a.union(b) for a, b in zip(low, high, strict=True)]


def _record(value: Any, where: str, keys: str, count: int) -> list[Any]:
    """The stages of a witness."""
    if reading.record(value, where, keys)["quadratic"] is not None:
        raise Invalid(f"{where}.quadratic is not null")
    return reading.array(value["stages"], f"{where}.stages", count)


@dataclass(eq=False)
class Leaf:
    """A part of the region with its witness."""

    network: Network
    region: Region
    witness: Any
    where: str

    def __post_init__(self) -> None:
        """Nothing of a gradient is known before it is asked for."""
        self._systems: dict[str, System] = {}
        self._entries: dict[tuple[bool, str], tuple[Numbers, Numbers]] = {}

    @cached_property
    def values(self) -> System:
        """The ranges of all pre-activations, proved."""
        where, own = f"{self.where}.values", self.network.stages
        stages = _record(self.witness["values"], where, "stages quadratic", len(own))
        system = System(self.region.supremum)
        for k, (stage, value) in enumerate(zip(own, stages, strict=True)):
            n = len(stage.pre)
            system.nodes.append(node(system, stage.pre, stage.function, n, value, f"{where}.stages[{k}]"))
        return system

    @cached_property
    def edges(self) -> list[list[Edge]]:
        """The slopes of all stages."""
        return [s.function.edges(v.l, v.u) for s, v in zip(self.network.stages, self.values.nodes, strict=True)]

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
            stages = _record(value, where, "row stages quadratic", total)
            if reading.row_key(reading.row(value["row"], f"{where}.row", outputs)) == key:
                break
        else:
            raise Invalid(f"{self.where} has no gradient of this row")
        coefficients = dict(row)
        system = System(point_supremum([coefficients.get(i, ZERO) for i in range(outputs)]))
        for k in reversed(range(total)):
            edges = [(i, d, most) for i, _, d, most in self.edges[k]]
            affine = backward(self.network, self.edges, k + 1)
            found = node(system, affine, Edges(edges), len(edges), stages[k], f"{where}.stages[{k}]")
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
