"""The claims of a certificate, each proved for every leaf or refused with a reason."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat

from recurjac_check import reading
from recurjac_check.errors import Invalid, missed
from recurjac_check.functions import ONE, Numbers
from recurjac_check.network import Network
from recurjac_check.quadratic import lengths
from recurjac_check.region import ZERO, Region, contains, dual_norm, larger, norm, smaller
from recurjac_check.witness import Leaf, at_point, combined, derivative

Claim = dict[str, Any]
_SPECTRAL, _SQUARINGS = 64, 48
"""Up to how many rows or columns spectral norms are bounded, and by the power 2 to how much of a Gram matrix."""
TINY = arb(2) ** -2000
"""A number that only positive numbers exceed in certificates: margins have to be larger."""


@dataclass(frozen=True)
class Context:
    """What claims are about: a network, a region as it was written and as it was read, and its leaves."""

    network: Network
    written: Any
    region: Region
    leaves: list[Leaf]

    @property
    def inhabited(self) -> Iterator[Leaf]:
        """The leaves that may have points."""
        return (leaf for leaf in self.leaves if not leaf.is_empty)

    def row(self, value: Any) -> reading.Row:
        """A row of a claim."""
        return reading.row(value, "row", len(self.network.outputs))

    def rows(self, value: Any) -> list[reading.Row]:
        """The rows of a claim."""
        if value == []:
            raise Invalid("rows is an empty list")
        return [self.row(r) for r in reading.array(value, "rows")]

    def output(self, value: Any) -> int:
        """The index of an output."""
        return reading.index(value, "an index of outputs", len(self.network.outputs))

    def point(self, value: Any) -> Numbers:
        """A point of the region."""
        point = reading.numbers(value, "point", self.network.inputs)
        if not contains(self.written, point):
            raise Invalid("the point is not proved to be in the region")
        return point

    def values(self, rows: list[reading.Row], lower: Numbers, upper: Numbers) -> None:
        """Raise Invalid unless lower <= rows <= upper; lines are used for what intervals do not prove."""
        for leaf in self.inhabited:
            affine, l, u = leaf.rows(rows)
            leaf.values.prove(affine, u, upper, 1, f"{leaf.where}: upper end of row")
            leaf.values.prove(affine, l, lower, -1, f"{leaf.where}: lower end of row")

    def entries(self, check: Callable[[Leaf, bool], Invalid | None]) -> None:
        """For every leaf, a check that may use intervals only, or lines too."""
        for leaf in self.inhabited:
            error = check(leaf, False) and check(leaf, True)
            if error is not None:
                raise error

    def at_most(self, what: str, end: arb, bound: Callable[[Leaf, bool], arb]) -> None:
        """Raise Invalid unless a bound from the entries is at most an end."""

        def check(leaf: Leaf, lines: bool) -> Invalid | None:
            found = bound(leaf, lines)
            return None if found <= end else missed(f"{leaf.where}: {what}", end, found)

        self.entries(check)


def _output(claim: Claim, context: Context) -> None:
    lower, upper = (reading.number(claim[k], k, infinite=True) for k in ("lower", "upper"))
    context.values([context.row(claim["row"])], [lower], [upper])


def _within(row: reading.Row, lower: Numbers, upper: Numbers, context: Context) -> None:
    """Raise Invalid unless the entries of a gradient lie between lower and upper."""

    def check(leaf: Leaf, lines: bool) -> Invalid | None:
        for i, (a, l, u, b) in enumerate(zip(lower, *leaf.jacobian(row, lines), upper, strict=True)):
            for sign, own, end in ((-1, l, a), (1, u, b)):
                if not sign * own <= sign * end:
                    return missed(f"{leaf.where}: {'upper' if sign > 0 else 'lower'} end of entry {i}", end, own)
        return None

    context.entries(check)


def _jacobian(claim: Claim, context: Context) -> None:
    lower, upper = (reading.numbers(claim[k], k, context.network.inputs, True) for k in ("lower", "upper"))
    _within(context.row(claim["row"]), lower, upper, context)


def _monotone(claim: Claim, context: Context) -> None:
    n = context.network.inputs
    up, down = ([reading.index(i, k, n) for i in reading.array(claim[k], k)] for k in ("increasing", "decreasing"))
    rising, falling = set(up), set(down)
    lower = [ZERO if i in rising else arb.neg_inf() for i in range(n)]
    upper = [ZERO if i in falling else arb.pos_inf() for i in range(n)]
    _within(context.row(claim["row"]), lower, upper, context)


def _stationary(claim: Claim, context: Context) -> None:
    row = context.row(claim["row"])
    if any(leaf.cuts for leaf in context.leaves):
        raise Invalid("parts by signs of neurons do not prove this: between their gradients, there may be 0")

    def check(leaf: Leaf, lines: bool) -> Invalid | None:
        signed = any(l > 0 or u < 0 for l, u in zip(*leaf.jacobian(row, lines), strict=True))
        return None if signed else Invalid(f"{leaf.where}: no entry of the gradient has a proved sign")

    context.entries(check)


def spectral(matrix: arb_mat) -> arb:
    """A bound of the largest singular value: of powers of the Gram matrix by squaring, each divided by its size."""
    wide = matrix.nrows() <= matrix.ncols()
    gram = matrix * matrix.transpose() if wide else matrix.transpose() * matrix
    bound, share = ONE, ONE / 2
    for _ in range(_SQUARINGS):
        size = norm(gram.entries(), "2").upper()
        if not size > 0:
            return ZERO if size == 0 else size
        bound, share = bound * size**share, share / 2
        gram = gram * (1 / size)
        gram = gram * gram
    return bound.upper()


def norm_within(low: list[Numbers], high: list[Numbers], p: str, q: str) -> arb:
    """A bound of the norm from p to q of all matrices between two."""
    sizes = [[larger(abs(l), abs(u)) for l, u in zip(*ends, strict=True)] for ends in zip(low, high, strict=True)]
    columns = list(zip(*sizes, strict=True))
    if p == "1":
        return norm([norm(column, q).upper() for column in columns], "inf").upper()
    bound = norm([dual_norm(row, p).upper() for row in sizes], q).upper()
    if p == "2" and q != "inf":
        sums = [norm(column, "1").upper() for column in columns]
        rest = norm(sums, "2") if q == "1" else (norm(sums, "inf") * norm([norm(r, "1") for r in sizes], "inf")).sqrt()
        bound = smaller(bound, rest.upper())
    if p == q == "2" and min(len(sizes), len(columns)) <= _SPECTRAL:
        l, u = (arb_mat(len(sizes), len(columns), [v for row in rows for v in row]) for rows in (low, high))
        bound = smaller(bound, (spectral((l + u) / 2) + spectral((u - l) / 2)).upper())
    return bound


def _entries(leaf: Leaf, rows: list[reading.Row], lines: bool) -> tuple[list[Numbers], list[Numbers]]:
    """Bounds of the entries of the Jacobian of rows."""
    low, high = zip(*(leaf.jacobian(row, lines) for row in rows), strict=True)
    return list(low), list(high)


def norm_bound(leaf: Leaf, rows: list[reading.Row], p: str, q: str, lines: bool) -> arb:
    """A bound of the norm from p to q of the Jacobian of rows, from bounds of its entries."""
    if p == "inf" and lines:
        return norm([leaf.row_sum(row) for row in rows], q).upper()
    return norm_within(*_entries(leaf, rows, lines), p, q)


def reached_norm(leaf: Leaf, rows: list[reading.Row], p: str, q: str) -> arb:
    """A bound of the norm from p to q of the Jacobian of rows, from its tangents."""
    gram = leaf.reach(rows, p)
    bound = norm(lengths(gram), q).upper()
    if q == "inf" or len(rows) > _SPECTRAL:
        return bound
    whole = spectral(gram) * (len(rows) if q == "1" else 1)
    return smaller(bound, whole.sqrt().upper())


def measure_bound(leaf: Leaf, rows: list[reading.Row], p: str, lines: bool) -> arb:
    """A bound of the matrix measure of the Jacobian of rows: ‖J + s‖ - s; of its symmetric part if p is 2."""
    low, high = _entries(leaf, rows, lines)
    if p == "2":
        n = range(len(rows))
        low = [[((low[i][j] + low[j][i]) / 2).lower() for j in n] for i in n]
        high = [[((high[i][j] + high[j][i]) / 2).upper() for j in n] for i in n]
    shift = norm([v for row in (*low, *high) for v in row], "2").upper()
    low = [[(l + shift).lower() if i == j else l for j, l in enumerate(row)] for i, row in enumerate(low)]
    high = [[(u + shift).upper() if i == j else u for j, u in enumerate(row)] for i, row in enumerate(high)]
    return (norm_within(low, high, p, p) - shift).upper()


def _lipschitz(claim: Claim, context: Context) -> None:
    rows, c = context.rows(claim["rows"]), reading.number(claim["upper"], "upper")
    p, q = (reading.text(claim[k], k, "1 2 inf") for k in ("from", "to"))
    by = reading.text(claim["by"], "by", "entries tangents")

    def bound(leaf: Leaf, lines: bool) -> arb:
        return reached_norm(leaf, rows, p, q) if by == "tangents" else norm_bound(leaf, rows, p, q, lines)

    context.at_most("norm", c, bound)


def _measure(claim: Claim, context: Context) -> None:
    c, p = reading.number(claim["upper"], "upper"), reading.text(claim["norm"], "norm", "1 2 inf")
    n = context.network.inputs
    if len(context.network.outputs) != n:
        raise Invalid("the Jacobian of all outputs is not square")
    rows: list[reading.Row] = [((i, ONE),) for i in range(n)]

    context.at_most("measure", c, lambda leaf, lines: measure_bound(leaf, rows, p, lines))


def _attained(claim: Claim, context: Context) -> None:
    rows, c, point = context.rows(claim["rows"]), reading.number(claim["lower"], "lower"), context.point(claim["point"])
    p, q = (reading.text(claim[k], k, "1 2 inf") for k in ("from", "to"))
    direction = reading.numbers(claim["direction"], "direction", context.network.inputs)
    size = norm(direction, p)
    if not size > 0:
        raise Invalid("the direction is zero")
    rate = norm(derivative(context.network, point, direction, rows), q) / size
    if not c <= rate.lower():
        raise missed("the rate at the point", c, rate.lower())


def _margin(label: int, other: int) -> reading.Row:
    """The output `label` minus another one."""
    return ((label, ONE), (other, -ONE)) if label < other else ((other, -ONE), (label, ONE))


def _robust(claim: Claim, context: Context) -> None:
    label, ball = context.output(claim["label"]), context.region
    rows = [_margin(label, i) for i in range(len(context.network.outputs)) if i != label]
    if reading.text(claim["by"], "by", "values gradients") == "values":
        context.values(rows, [TINY] * len(rows), [arb.pos_inf()] * len(rows))
        return
    p = ball.norm
    if p is None or not contains(context.written, ball.center):
        raise Invalid("margins from gradients need a ball whose centre is in the region")
    margins, _ = at_point(context.network, ball.center).interval(combined(context.network.outputs, rows))

    def check(leaf: Leaf, lines: bool) -> Invalid | None:
        for margin, row in zip(margins, rows, strict=True):
            low = margin - ball.radius * norm_bound(leaf, [row], p, "inf", lines)
            if not low > 0:
                return missed(f"{leaf.where}: margin", ZERO, low)
        return None

    context.entries(check)


def _adversary(claim: Claim, context: Context) -> None:
    label, other = context.output(claim["label"]), context.output(claim["other"])
    if label == other:
        raise Invalid("label and other are the same")
    values = at_point(context.network, context.point(claim["point"]))
    (low,), _ = values.interval(combined(context.network.outputs, [_margin(other, label)]))
    if not low >= 0:
        raise missed("the difference at the point", ZERO, low)


CHECKS: dict[str, tuple[str, bool, Callable[[Claim, Context], None]]] = {
    "output": ("row lower upper", True, _output),
    "jacobian": ("row lower upper", True, _jacobian),
    "lipschitz": ("rows from to by upper", True, _lipschitz),
    "measure": ("norm upper", True, _measure),
    "attained": ("rows from to lower point direction", False, _attained),
    "robust": ("label by", True, _robust),
    "adversary": ("label other point", False, _adversary),
    "monotone": ("row increasing decreasing", True, _monotone),
    "no_stationary_point": ("row", True, _stationary),
}


def prove(number: int, claim: Any, context: Context) -> None:
    """Raise Invalid, with the claim's number, unless it is proved."""
    kind = claim.get("kind") if isinstance(claim, dict) else None
    if not isinstance(kind, str) or kind not in CHECKS:
        raise Invalid(f"claim {number} is of no known kind")
    keys, leaves, check = CHECKS[kind]
    try:
        reading.record(claim, "it", f"kind {keys}")
        if leaves and not context.leaves:
            raise Invalid("the certificate has no parts")
        check(claim, context)
    except Invalid as error:
        raise Invalid(f"claim {number} ({kind}): {error}") from None
