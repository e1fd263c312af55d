"""The claims of a certificate, each proved for every leaf or refused with a reason."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat

from recurjac_check import reading
from recurjac_check.errors import Empty, Invalid, missed
from recurjac_check.functions import Numbers
from recurjac_check.network import Network
from recurjac_check.quadratic import below_square
from recurjac_check.region import ZERO, Region, contains, dual_norm, larger, norm, smaller
from recurjac_check.witness import Leaf, at_point, combined, derivative

ONE = arb(1)


@dataclass(frozen=True)
class Context:
    """What claims are about: a network, a region as it was written and as it was read, and its leaves."""

    network: Network
    written: Any
    region: Region
    leaves: list[Leaf]

    def each(self) -> Iterator[Leaf]:
        """The leaves, of which there has to be one."""
        if not self.leaves:
            raise Invalid("the certificate has no parts")
        yield from self.leaves

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return len(self.network.outputs)

    def row(self, value: Any) -> reading.Row:
        """A row of a claim."""
        return reading.row(value, "row", self.outputs)

    def rows(self, value: Any) -> list[reading.Row]:
        """The rows of a claim."""
        found = [self.row(r) for r in reading.array(value, "rows")]
        if not found:
            raise Invalid("rows is empty")
        return found

    def point(self, value: Any) -> Numbers:
        """A point of the region."""
        point = reading.numbers(value, "point", self.network.inputs)
        if not contains(self.written, point):
            raise Invalid("the point is not proved to be in the region")
        return point


Check = Callable[[dict[str, Any], Context], None]


def _values(leaf: Leaf, rows: list[reading.Row], lower: Numbers, upper: Numbers, what: str) -> None:
    """Raise Invalid unless lower <= rows <= upper; lines are used for the others than intervals prove."""
    system, affine = leaf.values, combined(leaf.network.outputs, rows)
    l, u = system.interval(affine)
    for sign, own, ends in ((1, u, upper), (-1, l, lower)):
        pending = [i for i in range(len(rows)) if not sign * own[i] <= sign * ends[i]]
        for i, bound in zip(pending, system.above(affine, pending, sign), strict=True):
            if not bound <= sign * ends[i]:
                raise missed(f"{leaf.where}: {what} {i}, {'upper' if sign > 0 else 'lower'} end", ends[i], sign * bound)


def _output(claim: dict[str, Any], context: Context) -> None:
    row = context.row(claim["row"])
    lower, upper = (reading.number(claim[k], k, infinite=True) for k in ("lower", "upper"))
    for leaf in context.each():
        _guarded(leaf, lambda leaf: _values(leaf, [row], [lower], [upper], "row"))


def _guarded(leaf: Leaf, check: Callable[[Leaf], None]) -> None:
    """A leaf without points proves everything; only cuts can make one."""
    try:
        check(leaf)
    except Empty as error:
        if not leaf.cuts:
            raise Invalid(f"{error}: the ends cross") from None


def _by_entries(context: Context, check: Callable[[Leaf, bool], Invalid | None]) -> None:
    """For every leaf, a check that may use intervals only, or lines too."""

    def both(leaf: Leaf) -> None:
        error = check(leaf, False)
        error = error and check(leaf, True)
        if error is not None:
            raise error

    for leaf in context.each():
        _guarded(leaf, both)


def _entry_error(leaf: Leaf, row: reading.Row, lines: bool, lower: Numbers, upper: Numbers) -> Invalid | None:
    low, high = leaf.jacobian(row, lines)
    for i, (a, l, u, b) in enumerate(zip(lower, low, high, upper, strict=True)):
        if not a <= l:
            return missed(f"{leaf.where}: entry {i}, lower end", a, l)
        if not u <= b:
            return missed(f"{leaf.where}: entry {i}, upper end", b, u)
    return None


def _jacobian(claim: dict[str, Any], context: Context) -> None:
    row, n = context.row(claim["row"]), context.network.inputs
    lower, upper = (reading.numbers(claim[k], k, n, infinite=True) for k in ("lower", "upper"))
    _by_entries(context, lambda leaf, lines: _entry_error(leaf, row, lines, lower, upper))


def _monotone(claim: dict[str, Any], context: Context) -> None:
    row, n = context.row(claim["row"]), context.network.inputs
    lower, upper = [arb.neg_inf()] * n, [arb.pos_inf()] * n
    for key, ends in (("increasing", lower), ("decreasing", upper)):
        for i in reading.array(claim[key], key):
            ends[reading.index(i, key, n)] = ZERO
    _by_entries(context, lambda leaf, lines: _entry_error(leaf, row, lines, lower, upper))


def _stationary(claim: dict[str, Any], context: Context) -> None:
    row = context.row(claim["row"])
    common: list[set[int]] = []

    def check(leaf: Leaf, lines: bool) -> Invalid | None:
        low, high = leaf.jacobian(row, lines)
        signs = {i + 1 for i, l in enumerate(low) if l > 0} | {-i - 1 for i, u in enumerate(high) if u < 0}
        if not signs:
            return Invalid(f"{leaf.where}: no entry of the gradient has a proved sign")
        common.append(signs)
        return None

    _by_entries(context, check)
    if any(leaf.cuts for leaf in context.leaves) and common and not set.intersection(*common):
        raise Invalid("parts that are split by neurons have no sign of an entry in common")


def _norm(leaf: Leaf, rows: list[reading.Row], p: str, q: str, lines: bool, c: arb) -> arb:
    """A bound of the norm from p to q of the Jacobian of rows, from bounds of its entries; c is what should be proved."""
    entries = [leaf.jacobian(row, lines) for row in rows]
    sizes = [[larger(abs(l), abs(u)) for l, u in zip(low, high, strict=True)] for low, high in entries]
    if p == "1":
        return norm([norm(column, q).upper() for column in zip(*sizes, strict=True)], "inf").upper()
    duals = [dual_norm(row, p).upper() for row in sizes]
    if p == "inf" and lines:
        duals = [smaller(d, leaf.row_sum(row)) for d, row in zip(duals, rows, strict=True)]
    bound = norm(duals, q).upper()
    if p == "2" and q != "inf":
        sums = [norm(column, "1").upper() for column in zip(*sizes, strict=True)]
        rest = norm(sums, "2") if q == "1" else (norm(sums, "inf") * norm([norm(r, "1") for r in sizes], "inf")).sqrt()
        bound = smaller(bound, rest.upper())
    if p == q == "2" and not bound <= c and lines:
        radii = norm([norm([(u - l) / 2 for l, u in zip(*pair, strict=True)], "2") for pair in entries], "2").upper()
        middles = arb_mat([[(l + u) / 2 for l, u in zip(*pair, strict=True)] for pair in entries])
        if radii < c and below_square(middles * middles.transpose(), c - radii):
            return c
    return bound


def _lipschitz(claim: dict[str, Any], context: Context) -> None:
    rows, c = context.rows(claim["rows"]), reading.number(claim["upper"], "upper")
    p, q = (reading.text(claim[k], k, "1 2 inf") for k in ("from", "to"))
    by = reading.text(claim["by"], "by", "entries quadratic")
    if by == "quadratic" and p == "1":
        raise Invalid("quadratic forms prove nothing from the norm 1")

    def entries(leaf: Leaf, lines: bool) -> Invalid | None:
        bound = _norm(leaf, rows, p, q, lines, c)
        return None if bound <= c else missed(f"{leaf.where}: norm", c, bound)

    def quadratic(leaf: Leaf) -> None:
        covariance = leaf.covariance(rows, p)
        bound = norm([larger(covariance[i, i].upper(), ZERO).sqrt() for i in range(len(rows))], q).upper()
        if not bound <= c and not (q == "2" and c > 0 and below_square(covariance, c)):
            raise missed(f"{leaf.where}: norm", c, bound)

    if by == "entries":
        _by_entries(context, entries)
    for leaf in context.each() if by == "quadratic" else ():
        _guarded(leaf, quadratic)


def _attained(claim: dict[str, Any], context: Context) -> None:
    rows, c, point = context.rows(claim["rows"]), reading.number(claim["lower"], "lower"), context.point(claim["point"])
    p, q = (reading.text(claim[k], k, "1 2 inf") for k in ("from", "to"))
    direction = reading.numbers(claim["direction"], "direction", context.network.inputs)
    size = norm(direction, p)
    if not size > 0:
        raise Invalid("the direction is zero")
    rate = norm(derivative(context.network, point, direction, rows), q) / size
    if not c <= rate.lower():
        raise missed("the rate at the point", c, rate.lower())


def _margins(label: int, outputs: int) -> list[reading.Row]:
    others = [i for i in range(outputs) if i != label]
    return [((label, ONE), (i, -ONE)) if label < i else ((i, -ONE), (label, ONE)) for i in others]


def _robust(claim: dict[str, Any], context: Context) -> None:
    label = reading.index(claim["label"], "label", context.outputs)
    rows, p = _margins(label, context.outputs), context.region.norm
    others = [i for i in range(context.outputs) if i != label]

    def values(leaf: Leaf) -> None:
        system, affine = leaf.values, combined(leaf.network.outputs, rows)
        low, _ = system.interval(affine)
        pending = [i for i, l in enumerate(low) if not l > 0]
        for i, bound in zip(pending, system.above(affine, pending, -1), strict=True):
            if not bound < 0:
                raise missed(f"{leaf.where}: margin to {others[i]}", ZERO, -bound)

    if reading.text(claim["by"], "by", "values gradients") == "values":
        for leaf in context.each():
            _guarded(leaf, values)
        return
    if p is None or not contains(context.written, context.region.center):
        raise Invalid("margins from gradients need a ball whose centre is in the region")
    at = at_point(context.network, context.region.center)
    margins, _ = at.interval(combined(context.network.outputs, rows))

    def gradients(leaf: Leaf, lines: bool) -> Invalid | None:
        for i, row in enumerate(rows):
            low = margins[i] - context.region.radius * _norm(leaf, [row], p, "inf", lines, ZERO)
            if not low > 0:
                return missed(f"{leaf.where}: margin to {others[i]}", ZERO, low)
        return None

    _by_entries(context, gradients)


def _adversary(claim: dict[str, Any], context: Context) -> None:
    label, other = (reading.index(claim[k], k, context.outputs) for k in ("label", "other"))
    if label == other:
        raise Invalid("label and other are the same")
    row = tuple(sorted(((other, ONE), (label, -ONE)), key=lambda pair: pair[0]))
    point = context.point(claim["point"])
    low, _ = at_point(context.network, point).interval(combined(context.network.outputs, [row]))
    if not low[0] >= 0:
        raise missed("the difference at the point", ZERO, low[0])


CHECKS: dict[str, tuple[str, Check]] = {
    "output": ("row lower upper", _output),
    "jacobian": ("row lower upper", _jacobian),
    "lipschitz": ("rows from to by upper", _lipschitz),
    "attained": ("rows from to lower point direction", _attained),
    "robust": ("label by", _robust),
    "adversary": ("label other point", _adversary),
    "monotone": ("row increasing decreasing", _monotone),
    "no_stationary_point": ("row", _stationary),
}


def prove(number: int, claim: Any, context: Context) -> None:
    """Raise Invalid, with the claim's number, unless it is proved."""
    kind = claim.get("kind") if isinstance(claim, dict) else None
    label = f"claim {number}"
    if not isinstance(kind, str) or kind not in CHECKS:
        raise Invalid(f"{label} is of no known kind")
    try:
        keys, check = CHECKS[kind]
        reading.record(claim, "it", f"kind {keys}")
        check(claim, context)
    except Invalid as error:
        raise Invalid(f"{label} ({kind}): {error}") from None
