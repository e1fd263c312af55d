"""Bounds in a system of nodes: intervals, and lines that are put in place of nodes from the last to the first.

Values, gradients and tangents are such systems. Source 0 is their input, source k + 1 the outputs of node k.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flint import arb

from recurjac_check.affine import Affine, Entries
from recurjac_check.errors import missed
from recurjac_check.functions import Elementwise, Numbers, Plane, Product, Slopes, times
from recurjac_check.region import ZERO, larger, smaller

_LOT = 256
"""How many forms are taken at a time."""
_ACCURATE = 64
"""The number of exact bits from which coefficients are kept as balls."""
Planes = tuple[list[Plane], list[Plane]]
Forms = dict[int, list[Entries]]
Supremum = Callable[[Entries], arb]


@dataclass(frozen=True, eq=False)
class Edges:
    """Outputs that are pre-activations times slopes in intervals: (pre-activation, d, D)."""

    edges: list[tuple[int, arb, arb]]

    def image(self, l: Numbers, u: Numbers) -> tuple[Numbers, Numbers]:
        """Bounds of the outputs."""
        pairs = [times((d, most), (l[i], u[i])) for i, d, most in self.edges]
        return [p[0] for p in pairs], [p[1] for p in pairs]

    def planes(self, l: Numbers, u: Numbers, below: Slopes, above: Slopes) -> Planes:
        """Lines of these slopes or chords, above max(d y, D y), which is convex, and below min(d y, D y)."""
        result: Planes = ([], [])
        for e, (i, d, most) in enumerate(self.edges):
            for side, slopes in enumerate((below, above)):
                if d == most:
                    result[side].append((((i, d),) if d != 0 else (), ZERO))
                    continue
                ends = [_extreme(side, d * y, most * y) for y in (l[i], u[i])]
                chord = ((ends[1] - ends[0]) / (u[i] - l[i])).mid() if l[i] < u[i] else ZERO
                a = slopes[e] if slopes is not None else chord
                rest = [end - a * y for end, y in zip(ends, (l[i], u[i]), strict=True)]
                result[side].append((((i, a),) if a != 0 else (), _extreme(side, *rest)))
        return result


def _extreme(side: int, a: arb, b: arb) -> arb:
    """A number that is not below both (side 1), or not above both (side 0)."""
    return larger(a.upper(), b.upper()) if side else smaller(a.lower(), b.lower())


Relation = Elementwise | Product | Edges
"""How outputs of a node depend on its pre-activations."""


@dataclass(frozen=True, eq=False)
class Known:
    """A node whose pre-activations lie in [l, u]."""

    affine: Affine
    relation: Relation
    l: Numbers
    u: Numbers
    below: Slopes = None
    above: Slopes = None

    @cached_property
    def image(self) -> tuple[Numbers, Numbers]:
        """Bounds of the outputs."""
        return self.relation.image(self.l, self.u)

    @cached_property
    def sizes(self) -> Numbers:
        """What the absolute values of outputs do not exceed."""
        return [larger(abs(a), abs(b)) for a, b in zip(*self.image, strict=True)]

    @cached_property
    def live(self) -> tuple[int, ...]:
        """The outputs that are not always 0."""
        return tuple(o for o, size in enumerate(self.sizes) if not size.is_zero())

    @cached_property
    def planes(self) -> Planes:
        """Planes below and above the outputs; offsets of 0 are `ZERO` itself."""
        lower, upper = self.relation.planes(self.l, self.u, self.below, self.above)
        return [(t, ZERO if c.is_zero() else c) for t, c in lower], [(t, ZERO if c.is_zero() else c) for t, c in upper]

    def replaced(self, form: Entries) -> tuple[Entries, arb]:
        """A function of the pre-activations that a function of the outputs does not exceed.

        Coefficients with a sign that is not certain or few exact digits become exact: their radii are absorbed against
        the sizes of the outputs, so that they do not grow from node to node.
        """
        result: Entries = {}
        constant, (lower, upper) = ZERO, self.planes
        for o, c in form.items():
            if c.rel_accuracy_bits() < _ACCURATE:
                constant += c.rad() * self.sizes[o]
                c = c.mid()
            terms, offset = upper[o] if c > ZERO else lower[o]
            if offset is not ZERO:
                constant += c * offset
            for i, a in terms:
                result[i] = result[i] + c * a if i in result else c * a
        return result, constant


@dataclass
class System:
    """Nodes that are known so far, over an input of which the maximum of a linear function is known."""

    supremum: Supremum
    nodes: list[Known] = field(default_factory=list)

    def interval(self, affine: Affine) -> tuple[Numbers, Numbers]:
        """Bounds by interval arithmetic; where no term has the other sign, an end is 0 or has the sign of the terms."""
        low, high = [], []
        inputs = affine.blocks[0].rows if 0 in affine.blocks else None
        for i, constant in enumerate(affine.constant):
            below, above = constant, constant
            for s, block in affine.blocks.items():
                least, most = self.nodes[s - 1].image if s else ([], [])
                for j, w in block.rows[i].items() if s else ():
                    a, b = w * least[j], w * most[j]
                    if not w >= 0:
                        a, b = (b, a) if w < 0 else (a.union(b), a.union(b))
                    below, above = below + a, above + b
            if inputs is not None:
                above += self.supremum(inputs[i])
                below -= self.supremum({j: -w for j, w in inputs[i].items()})
            low.append(below.lower())
            high.append(above.upper())
        return low, high

    def above(self, affine: Affine, rows: Sequence[int], sign: int) -> Numbers:
        """What sign times these rows do not exceed, by lines."""
        result: Numbers = []
        for start in range(0, len(rows), _LOT):
            lot = rows[start : start + _LOT]
            forms = {
                s: [{j: sign * w for j, w in block.rows[i].items()} for i in lot] for s, block in affine.blocks.items()
            }
            result += self.maxima(forms, [sign * affine.constant[i] for i in lot])
        return result

    def maxima(self, forms: Forms, constant: Numbers, pre_forms: Forms | None = None) -> Numbers:
        """What these forms do not exceed, by lines; `pre_forms` are added to them, of pre-activations by their node."""
        more, none = pre_forms or {}, [Entries() for _ in constant]
        for s in range(len(self.nodes), 0, -1):
            if s not in forms and s not in more:
                continue
            node = self.nodes[s - 1]
            replaced = [node.replaced(form) for form in forms.pop(s, none)]
            constant = [c + rest for c, (_, rest) in zip(constant, replaced, strict=True)]
            pre = [_sum(form, added) for (form, _), added in zip(replaced, more.get(s, none), strict=True)]
            for t, block in node.affine.blocks.items():
                added = block.after(pre, self.nodes[t - 1].live if t else None)
                forms[t] = [_sum(a, b) for a, b in zip(forms[t], added, strict=True)] if t in forms else added
            b = node.affine.constant
            if not all(c == 0 for c in b):
                constant = [c + sum((w * b[i] for i, w in f.items()), ZERO) for c, f in zip(constant, pre, strict=True)]
        inputs = forms.get(0, none)
        return [(c + self.supremum(form)).upper() for c, form in zip(constant, inputs, strict=True)]

    def prove(self, affine: Affine, own: Numbers, ends: Numbers, sign: int, what: str) -> None:
        """Raise Invalid unless sign times each row is at most sign times its end; `own` are bounds that are known."""
        pending = [i for i, (a, b) in enumerate(zip(own, ends, strict=True)) if not sign * a <= sign * b]
        for i, bound in zip(pending, self.above(affine, pending, sign), strict=True):
            if not bound <= sign * ends[i]:
                raise missed(f"{what} {i}", ends[i], sign * bound)

    def bounds(self, affine: Affine) -> tuple[Numbers, Numbers]:
        """The better ones of the bounds by intervals and by lines."""
        low, high = self.interval(affine)
        everything = range(len(affine))
        high = [smaller(a, b) for a, b in zip(high, self.above(affine, everything, 1), strict=True)]
        low = [larger(a, -b) for a, b in zip(low, self.above(affine, everything, -1), strict=True)]
        return low, high


def _sum(a: Entries, b: Entries) -> Entries:
    for k, w in b.items():
        a[k] = a[k] + w if k in a else w
    return a


def point_supremum(point: Numbers) -> Supremum:
    """The value of a linear function at a point."""
    return lambda form: sum((c * point[i] for i, c in form.items()), ZERO).upper()
