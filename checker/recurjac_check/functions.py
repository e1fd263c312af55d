"""What is known of the functions of a stage: their range, slopes and lines over a range of pre-activations.

Pre-activations come as lists of exact ends l <= u. An edge (output, argument, d, D) says that the slope of an output
by an argument lies in [d, D]. A plane ((argument, slope), ...), c is a bound of an output.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flint import arb

from recurjac_check.errors import Invalid
from recurjac_check.region import ZERO, larger, smaller

Numbers = list[arb]
Slopes = list[arb] | None
Edge = tuple[int, int, arb, arb]
Plane = tuple[tuple[tuple[int, arb], ...], arb]
Function = Callable[[arb], arb]
ONE = arb(1)
_PIECES = 3000
_ACCURACY = arb(2) ** -56


def supremum(f: Function, df: Function, l: arb, u: arb) -> arb:
    """A number that f does not exceed on [l, u]: pieces are halved until f is monotone or nearly constant there."""
    ends = [f(l), f(u)]
    best, size = larger(ends[0].upper(), ends[1].upper()), larger(abs(ends[0]).upper(), abs(ends[1]).upper())
    pieces = [(l, u)] if l < u else []
    for count in range(_PIECES):
        if not pieces or not best.is_finite():
            break
        a, b = pieces.pop()
        middle = ((a + b) / 2).mid()
        slope = df(a.union(b))
        if slope >= 0 or slope <= 0:
            continue
        room = abs(slope) * larger((b - middle).upper(), (middle - a).upper())
        if count == 0 and room.is_finite():
            size = larger(size, room.upper())
        value = f(middle)
        if room <= size * _ACCURACY or value + room <= best:
            best = larger(best, (value + room).upper())
        else:
            best = larger(best, value.upper())
            pieces += [(a, middle), (middle, b)]
    if pieces or not best.is_finite():
        raise Invalid(
            f"no bound of an activation on [{float(l):.6g}, {float(u):.6g}] was found, where it may not be defined"
        )
    return best


def extremes(f: Function, df: Function, l: arb, u: arb) -> tuple[arb, arb]:
    """Ends between which f stays on [l, u]."""
    return -supremum(lambda z: -f(z), lambda z: -df(z), l, u), supremum(f, df, l, u)


@dataclass(frozen=True)
class Smooth:
    """A function with continuous second derivatives on its domain."""

    value: Function
    slope: Function
    bend: Function

    def offsets(self, a: arb, l: arb, u: arb) -> tuple[arb, arb]:
        """Bounds of f(z) - a z on [l, u]."""
        return extremes(lambda z: self.value(z) - a * z, lambda z: self.slope(z) - a, l, u)

    def slopes(self, l: arb, u: arb) -> tuple[arb, arb]:
        """Bounds of f' on [l, u]."""
        return extremes(self.slope, self.bend, l, u)

    def secants(self, l: arb, u: arb, c: arb) -> tuple[arb, arb]:
        """Bounds of s(z) = (f(z) - f(c)) / (z - c) on [l, u]; s' is half of f'' somewhere between z and c."""

        def secant(z: arb) -> arb:
            step = z - c
            return (self.value(z) - self.value(c)) / step if step > 0 or step < 0 else self.slope(z.union(c))

        def turn(z: arb) -> arb:
            near, step, m = self.bend(z.union(c)) / 2, z - c, z.mid()
            if not (step > 0 or step < 0):
                return near
            centred = self.slope(m) - secant(m) + (self.bend(z) - near) * (z - m)
            ways = [w for w in (near, centred / step, (self.slope(z) - secant(z)) / step) if w.is_finite()]
            return min(ways, key=lambda w: float(w.rad()), default=near)  # s' is (f' - s) / (z - c)

        return extremes(secant, turn, l, u)


@dataclass(frozen=True)
class Pieces:
    """A continuous piecewise linear function: exact kinks b_1 < ... < b_m, between which it is s_i z + c_i."""

    kinks: Numbers
    gradients: Numbers
    constants: Numbers

    def value(self, z: arb) -> arb:
        """f(z) for an exact z, and NaN where it is not known on which side of a kink z is."""
        piece = 0
        for kink in self.kinks:
            if z > kink:
                piece += 1
            elif not z <= kink:
                return arb.nan()
        return self.gradients[piece] * z + self.constants[piece]

    def offsets(self, a: arb, l: arb, u: arb) -> tuple[arb, arb]:
        """Bounds of f(z) - a z on [l, u]: it is extreme at an end or at a kink."""
        points = [l, u, *(b for b in self.kinks if l < b < u)]
        return _hull([self.value(z) - a * z for z in points])

    def slopes(self, l: arb, u: arb) -> tuple[arb, arb]:
        """The least and the largest slope of the pieces that meet [l, u]."""
        met: Numbers = []
        for i, s in enumerate(self.gradients):
            left, right = self.kinks[i - 1 : i], self.kinks[i : i + 1]
            if not (i and u < left[0]) and not (right and l > right[0]):
                met.append(s)
        return _hull(met)

    def inside(self, l: arb, u: arb, at: arb, below: bool) -> tuple[arb, arb]:
        """[l, u], or if one end is `at`, the part that meets the same pieces apart from those beyond it."""
        kinks = [l, *(b for b in self.kinks if l < b < u), u]
        if not l < u or at != (u if below else l):
            return l, u
        return (l, ((kinks[-2] + u) / 2).mid()) if below else (((l + kinks[1]) / 2).mid(), u)

    def secants(self, l: arb, u: arb, c: arb) -> tuple[arb, arb]:
        """Bounds of (f(z) - f(c)) / (z - c) on [l, u]: on each piece and side of c, it is extreme at the ends."""
        least, most = self.slopes(smaller(l, c.lower()), larger(u, c.upper()))
        found = list(self.slopes(c.lower(), c.upper()))
        for z in (l, u, *(b for b in self.kinks if l < b < u)):
            if z > c or z < c:
                found.append((self.value(z) - self.at(c)) / (z - c))
            else:
                found += self.slopes(smaller(z, c.lower()), larger(z, c.upper()))
        low, high = _hull(found)
        return larger(low, least), smaller(high, most)

    def at(self, c: arb) -> arb:
        """f(c) for a ball c."""
        low, high = self.offsets(ZERO, c.lower(), c.upper())
        return low.union(high)


@dataclass(frozen=True)
class Elementwise:
    """h_i = f_i(z_i); one function may stand for all of them."""

    functions: list[Smooth | Pieces]
    arguments = 1

    def f(self, i: int) -> Smooth | Pieces:
        """The function of entry i."""
        return self.functions[i if len(self.functions) > 1 else 0]

    def image(self, l: Numbers, u: Numbers) -> tuple[Numbers, Numbers]:
        """Bounds of h."""
        pairs = [self.f(i).offsets(ZERO, a, b) for i, (a, b) in enumerate(zip(l, u, strict=True))]
        return [p[0] for p in pairs], [p[1] for p in pairs]

    def edges(self, l: Numbers, u: Numbers) -> list[Edge]:
        """Bounds of the slopes."""
        return [(i, i, *self.f(i).slopes(a, b)) for i, (a, b) in enumerate(zip(l, u, strict=True))]

    def secants(self, l: Numbers, u: Numbers, at: Numbers) -> list[Edge]:
        """Bounds of the slopes of secants between pre-activations and those at a point."""
        return [(i, i, *self.f(i).secants(a, b, c)) for i, (a, b, c) in enumerate(zip(l, u, at, strict=True))]

    def planes(self, l: Numbers, u: Numbers, below: Slopes, above: Slopes) -> tuple[list[Plane], list[Plane]]:
        """Lines below and above h, of these slopes or those of the chord."""
        lower, upper = [], []
        for i, (a, b) in enumerate(zip(l, u, strict=True)):
            f = self.f(i)
            s, t = (v[i] if v is not None else _chord(f.value, a, b) for v in (below, above))
            if isinstance(f, Pieces) and not any(a < kink < b for kink in f.kinks):
                s = t = _chord(f.value, a, b)
            lower.append(_line(i, s, f.offsets(s, a, b)[0]))
            upper.append(_line(i, t, f.offsets(t, a, b)[1]))
        return lower, upper


def _hull(values: Numbers) -> tuple[arb, arb]:
    """The ends of a hull of balls."""
    low, high = values[0].lower(), values[0].upper()
    for v in values[1:]:
        low, high = smaller(low, v.lower()), larger(high, v.upper())
    return low, high


def _line(i: int, slope: arb, intercept: arb) -> Plane:
    return (((i, slope),) if slope != 0 else ()), intercept


def _chord(f: Function, l: arb, u: arb) -> arb:
    """An exact number near the slope of the chord."""
    slope = (f(u) - f(l)) / (u - l) if l < u else ZERO
    return slope.mid() if slope.is_finite() else ZERO


def times(a: tuple[arb, arb], b: tuple[arb, arb]) -> tuple[arb, arb]:
    """The product of two intervals, whose ends may be balls."""
    return _hull([x * y for x in a for y in b])


@dataclass(frozen=True)
class Product:
    """h_i = z_i z_{n+i}."""

    arguments = 2

    def image(self, l: Numbers, u: Numbers) -> tuple[Numbers, Numbers]:
        """Bounds of h."""
        low, high = self.planes(l, u, None, None)
        return [c for _, c in low], [c for _, c in high]

    def edges(self, l: Numbers, u: Numbers) -> list[Edge]:
        """The slope by one factor is the other factor."""
        n = len(l) // 2
        return [(i, j, l[k], u[k]) for i in range(n) for j, k in ((i, n + i), (n + i, i))]

    def secants(self, l: Numbers, u: Numbers, at: Numbers) -> list[Edge]:
        """Those by one factor are means of the other factor and of its value at the point."""
        means = [((a + c) / 2, (b + c) / 2) for a, b, c in zip(l, u, at, strict=True)]
        return self.edges([a.lower() for a, _ in means], [b.upper() for _, b in means])

    def planes(self, l: Numbers, u: Numbers, below: Slopes, above: Slopes) -> tuple[list[Plane], list[Plane]]:
        """Planes of these slopes, or constants: u v - a u - b v = (u - b) (v - a) - a b is extreme at corners."""
        n = len(l) // 2
        result: tuple[list[Plane], list[Plane]] = ([], [])
        for i in range(n):
            for side, slopes in enumerate((below, above)):
                a, b = (slopes[i], slopes[n + i]) if slopes is not None else (ZERO, ZERO)
                moved = times((l[i] - b, u[i] - b), (l[n + i] - a, u[n + i] - a))
                terms = tuple((j, c) for j, c in ((i, a), (n + i, b)) if c != 0)
                rest = moved[side] - a * b
                result[side].append((terms, rest.upper() if side else rest.lower()))
        return result


def two_pieces(left: arb) -> Pieces:
    """Slope `left` below 0, and 1 above."""
    return Pieces([ZERO], [left, ONE], [ZERO, ZERO])


def clamp(low: arb | None, high: arb | None) -> Pieces:
    """min(max(z, low), high) for exact low < high; one of them may be missing."""
    below, above = ([c] if c is not None else [] for c in (low, high))
    return Pieces(below + above, [*(ZERO for _ in below), ONE, *(ZERO for _ in above)], [*below, ZERO, *above])


def _phi(z: arb) -> arb:
    return (-z * z / 2).exp() / (2 * arb.pi()).sqrt()


def _normal(z: arb) -> arb:
    return (1 + (z / arb(2).sqrt()).erf()) / 2


def _sigmoid(z: arb) -> arb:
    return 1 / (1 + (-z).exp())


def _bell(z: arb) -> arb:
    return 1 / (4 * (z / 2).cosh() ** 2)


SMOOTH = {
    "Sigmoid": Smooth(_sigmoid, _bell, lambda z: -_bell(z) * (z / 2).tanh()),
    "Tanh": Smooth(lambda z: z.tanh(), lambda z: 1 / z.cosh() ** 2, lambda z: -2 * z.tanh() / z.cosh() ** 2),
    "Erf": Smooth(
        lambda z: z.erf(),
        lambda z: 2 * (-z * z).exp() / arb.pi().sqrt(),
        lambda z: -4 * z * (-z * z).exp() / arb.pi().sqrt(),
    ),
    "Gelu": Smooth(lambda z: z * _normal(z), lambda z: _normal(z) + z * _phi(z), lambda z: _phi(z) * (2 - z * z)),
    "Softplus": Smooth(lambda z: z.exp().log1p(), _sigmoid, _bell),
    "Exp": Smooth(lambda z: z.exp(), lambda z: z.exp(), lambda z: z.exp()),
    "Log": Smooth(lambda z: z.log(), lambda z: 1 / z, lambda z: -1 / z**2),
    "Sqrt": Smooth(lambda z: z.sqrt(), lambda z: z.rsqrt() / 2, lambda z: -(z.rsqrt() ** 3) / 4),
    "Reciprocal": Smooth(lambda z: 1 / z, lambda z: -1 / z**2, lambda z: 2 / z**3),
    "Sin": Smooth(lambda z: z.sin(), lambda z: z.cos(), lambda z: -z.sin()),
    "Cos": Smooth(lambda z: z.cos(), lambda z: -z.sin(), lambda z: -z.cos()),
    "Atan": Smooth(lambda z: z.atan(), lambda z: 1 / (1 + z * z), lambda z: -2 * z / (1 + z * z) ** 2),
    "Square": Smooth(lambda z: z * z, lambda z: 2 * z, lambda z: 0 * z + 2),
}
