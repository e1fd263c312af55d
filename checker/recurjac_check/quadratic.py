"""Quadratic forms P with v v' <= P for the vectors v of a system (docs/mathematics.md, section 5.6)."""

from collections.abc import Iterable, Sequence

from flint import arb, arb_mat

from recurjac_check.affine import Affine, dense
from recurjac_check.errors import Invalid
from recurjac_check.functions import Numbers
from recurjac_check.region import ZERO

Matrix = list[Numbers]


def is_positive_definite(m: arb_mat) -> bool:
    """Whether the symmetric matrix in m is proved positive definite, by Schur complements of halves."""
    n = m.nrows()
    if n < 2:
        return n == 0 or bool(m[0, 0] > 0)
    rows, h = m.tolist(), n // 2
    a, b, c = ([row[i:j] for row in rows[k:l]] for k, l, i, j in ((0, h, 0, h), (0, h, h, n), (h, n, h, n)))
    if not is_positive_definite(arb_mat(a)):
        return False
    try:
        return is_positive_definite(arb_mat(c) - arb_mat(b).transpose() * arb_mat(a).solve(arb_mat(b)))
    except ZeroDivisionError:
        return False


def below_square(q: arb_mat, c: arb) -> bool:
    """Whether the symmetric matrix q is proved to be below c^2 times the identity."""
    n = q.nrows()
    return is_positive_definite(arb_mat([[(c * c if i == j else ZERO) - q[i, j] for j in range(n)] for i in range(n)]))


class Ellipsoid:
    """P for the sources that are still read, side by side."""

    def __init__(self, start: Matrix) -> None:
        self.places: list[tuple[int, int]] = [(0, len(start))]
        self.p = arb_mat(start)

    def _rows(self, affine: Affine) -> arb_mat:
        """The affine functions without constants, as rows over the sources."""
        parts = [
            (affine.blocks[s].dense if s in affine.blocks else dense([{}] * len(affine), n)).tolist()
            for s, n in self.places
        ]
        return arb_mat([[w for part in parts for w in part[i]] for i in range(len(affine))])

    def covariance(self, affine: Affine) -> arb_mat:
        """Q with z z' <= Q for the values z of affine functions without their constants."""
        a = self._rows(affine)
        return a * self.p * a.transpose()

    def extend(
        self, affine: Affine, edges: Sequence[tuple[int, arb, arb]], t: Numbers | None, source: int, later: Iterable[Affine]
    ) -> None:
        """Add the outputs of a node with these slopes by its multipliers t, and leave out what is not read any more."""
        read = {s for affine in later for s in affine.blocks}
        edges = edges if source in read else ()
        old = sum(n for _, n in self.places)
        rows = self._rows(affine).tolist()
        b = arb_mat([[arb(i == j) for j in range(old)] for i in range(old)] + [rows[i] for i, _, _ in edges])
        joint = b * self.p * b.transpose()
        free = [(old + e, (most - d) / 2, t[e] if t else ZERO) for e, (_, d, most) in enumerate(edges) if d != most]
        q = joint.tolist()
        if free:
            picked = arb_mat([q[i] for i, _, _ in free])
            gap = [[(s if i == j else ZERO) - q[i][j] for j, _, _ in free] for i, _, s in free]
            if not is_positive_definite(arb_mat(gap)):
                raise Invalid(f"the multipliers of node {source - 1} do not dominate")
            q = (joint + picked.transpose() * arb_mat(gap).solve(picked)).tolist()
        scale = [arb(1)] * old + [(d + most) / 2 for _, d, most in edges]
        added = [ZERO] * len(scale)
        for i, r, s in free:
            added[i] = s * r * r
        keep, first = [], 0
        for s, n in [*self.places, (source, len(edges))]:
            keep += range(first, first + n) if s in read else ()
            first += n
        self.places = [(s, n) for s, n in [*self.places, (source, len(edges))] if s in read]
        self.p = _exact([[q[i][j] * scale[i] * scale[j] + (added[i] if i == j else ZERO) for j in keep] for i in keep])


def _exact(q: Matrix) -> arb_mat:
    """An exact matrix that is not below any symmetric matrix in q: radii are absorbed by the diagonal."""
    n = len(q)
    result, sums = [[ZERO] * n for _ in range(n)], [ZERO] * n
    for i in range(n):
        for j in range(i, n):
            result[i][j] = result[j][i] = q[i][j].mid()
            sums[i] += q[i][j].rad()
            sums[j] += q[i][j].rad() if j > i else ZERO
    for i in range(n):
        result[i][i] = (result[i][i] + sums[i]).upper()
    return arb_mat(result)
