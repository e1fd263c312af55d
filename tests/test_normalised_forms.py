"""Forms uᵀJw of the Jacobians of normalisations by the search for multipliers, and what networks get from them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import NormalisedRows
from recurjac.activations.normalised_forms import Cells, Multipliers, NormalisedForms
from recurjac.arithmetic import Interval
from recurjac.norms import AbstractNormMethod
from tests.marks import DTYPES
from tests.test_rigorous_rows import Exact

RIGOROUS = rj.Rigorous()
FUNCTIONS = [NormalisedRows(eps, centred) for eps, centred in ((1e-5, True), (0.1, True), (1e-5, False), (0.0, True))]


def random_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def forms_of(function: NormalisedRows, x: Tensor, radius: float, seed: int, pieces: int) -> NormalisedForms:
    """Three pairs (1, 3, 1, n) of random covectors and tangents of a row (n,), in its dtype."""
    z = Interval(x - radius, x + radius).reshape(1, 1, -1)
    u, w = random_of(2, 1, 3, 1, len(x), seed=seed).to(x.dtype)
    if function.centred:
        u, w = (t - t.mean(-1, keepdim=True) for t in (u, w))
    size = function._sizes(z, RIGOROUS).map(lambda t: t.unsqueeze(1))
    return NormalisedForms(z.map(lambda t: t.unsqueeze(1)), size, u, w, function.eps, function.centred, pieces)


def points_of(z: Interval, count: int = 6) -> Tensor:
    """(count, n), of which most are corners."""
    low, high = z.lower.flatten(), z.upper.flatten()
    share = torch.rand(count, len(low), generator=torch.Generator().manual_seed(1), dtype=low.dtype)
    share[1:] = share[1:].round()
    return torch.minimum(torch.maximum(low + share * (high - low), low), high)


def assert_exact_forms_are_below(function: NormalisedRows, forms: NormalisedForms, most: Tensor) -> None:
    for row in points_of(forms.z):
        true = Exact(function, row)
        for k in range(3):
            u, w = ([Fraction(float(t)) for t in v[0, k, 0]] for v in (forms.u, forms.w))
            moved = [sum((a * b for a, b in zip(r, w, strict=True)), Fraction(0)) for r in true.slopes]
            value = sum((a * b for a, b in zip(u, moved, strict=True)), Fraction(0))
            assert true.below(-float(most[k]), -value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_exact_forms_are_below_the_bound(function: NormalisedRows, pieces: int, dtype: torch.dtype) -> None:
    for seed, (count, radius) in enumerate([(2, 0.02), (3, 0.0), (3, 0.3), (5, 0.1), (5, 1e-4)]):
        x = random_of(count, seed=seed).to(dtype) + (1e3 if seed == 3 else 0.0)
        forms = forms_of(function, x, radius, seed, pieces)
        assert_exact_forms_are_below(function, forms, forms.upper(RIGOROUS)[0, :, 0])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("function", FUNCTIONS[:3], ids=str)
def test_any_multipliers_give_a_bound(function: NormalisedRows, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search finds need not be good, nor of one sign."""
    x = random_of(4, seed=seed)
    forms = forms_of(function, x, 0.1, seed, 1)

    def strange(_: object) -> Multipliers:
        numbers = [random_of(1, 1, 3, 1, 1, seed=seed + k) for k in range(3)]
        middle = random_of(1, 1, 3, 1, 1, seed=seed + 3) if function.centred else torch.zeros(1, 1, 3, 1, 1).double()
        p, q, k = numbers
        return Multipliers(p, q, k, middle, random_of(1, 1, 3, 1, 4, seed=seed + 4))

    found = forms.upper(RIGOROUS)
    monkeypatch.setattr("recurjac.activations.normalised_forms._Search.best", strange)
    loose = forms.upper(RIGOROUS)
    assert bool((loose >= found).any())
    assert_exact_forms_are_below(function, forms, loose[0, :, 0])


@pytest.mark.parametrize("radius", [0.0, 0.25])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("centred", [True, False])
def test_lines_are_above_what_they_stand_for(centred: bool, seed: int, radius: float) -> None:
    """p a + q b - k |c|² as fractions, at corners, for any multipliers; at a point, tangents of c² leave no room."""
    function, x = NormalisedRows(0.1, centred), random_of(4, seed=seed)
    forms = forms_of(function, x, radius, seed, 1)
    shape = (1, 1, 3, 1, 1)
    p, q = (random_of(*shape, seed=seed + i) for i in (1, 2))
    k = random_of(*shape, seed=seed + 3) + (1.0 if radius == 0.0 else 0.0)
    mean = 8 * random_of(*shape, seed=seed + 4) if centred else torch.zeros(shape, dtype=torch.float64)
    off = 0.0 if radius == 0.0 and seed % 2 else random_of(*shape, seed=seed + 5)
    by = Multipliers(p, q, k, mean, 2 * (x - (x.mean() if centred else 0.0)) + off)
    many = forms.size.map(lambda t: t.unsqueeze(0))
    most = Cells(forms, many, many, many, many)._line(by, forms.moved(mean, RIGOROUS), RIGOROUS)
    for row in points_of(forms.z):
        z = [Fraction(v) for v in row.tolist()]
        c = [v - sum(z) / len(z) for v in z] if centred else z
        for i in range(3):
            a, b = (
                sum(Fraction(s) * v for s, v in zip(t[0, i, 0].tolist(), c, strict=True)) for t in (forms.u, forms.w)
            )
            true = Fraction(float(p[0, 0, i])) * a + Fraction(float(q[0, 0, i])) * b
            true -= Fraction(float(k[0, 0, i])) * sum(v * v for v in c)
            assert true <= Fraction(float(most[0, 0, i]))


@pytest.mark.parametrize("seed", range(4))
def test_means_of_covectors_and_tangents_do_not_matter(seed: int) -> None:
    """The Jacobian of a centred normalisation takes them away, also where they are not removed before."""
    function, x = FUNCTIONS[1], random_of(4, seed=seed)
    plain = forms_of(function, x, 0.05 * seed, seed, 1)
    forms = NormalisedForms(plain.z, plain.size, plain.u + 3.0, plain.w - 2.0, function.eps, True)
    assert_exact_forms_are_below(function, forms, forms.upper(RIGOROUS)[0, :, 0])


@pytest.mark.parametrize("seed", range(4))
def test_products_with_moved_rows_hold_at_corners(seed: int) -> None:
    """Rows less a number that rounds, and u · c for a u whose entries do not sum to 0, as fractions."""
    x = random_of(4, seed=seed)
    plain = forms_of(FUNCTIONS[1], x, 0.0 if seed < 2 else 0.5, seed, 1)
    forms = NormalisedForms(plain.z, plain.size, plain.u + 3.0, plain.w, 0.1, True)
    middle = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    y = forms.moved(middle, RIGOROUS)
    found = forms._dot(forms.u, y, RIGOROUS)
    for row in points_of(forms.z, 20):
        z = [Fraction(v) for v in row.tolist()]
        for low, v, high in zip(y.lower.flatten().tolist(), z, y.upper.flatten().tolist(), strict=True):
            assert Fraction(low) <= v - Fraction(0.1) <= Fraction(high)
        for i in range(3):
            u = [Fraction(v) for v in forms.u[0, i, 0].tolist()]
            a = sum(s * (v - sum(z) / 4) for s, v in zip(u, z, strict=True))
            assert Fraction(float(found.lower[0, i])) <= a <= Fraction(float(found.upper[0, i]))


def attained(function: NormalisedRows, forms: NormalisedForms) -> Tensor:
    """The largest values found from many points by steps towards the corners that gradients point to: (3,)."""
    low, high, best = forms.z.lower.flatten(), forms.z.upper.flatten(), torch.full((3,), -inf, dtype=torch.float64)
    u, w = forms.u[0, :, 0], forms.w[0, :, 0]
    x = low + (high - low) * torch.rand(3, 100, len(low), generator=torch.Generator().manual_seed(2)).double()
    for step in range(60):
        x = x.detach().requires_grad_()
        (pulled,) = torch.autograd.grad((function.value(x) * u.unsqueeze(1)).sum(), x, create_graph=True)
        value = (pulled * w.unsqueeze(1)).sum(-1)
        best = torch.maximum(best, value.detach().amax(1))
        (slope,) = torch.autograd.grad(value.sum(), x)
        x = x + (1.0 if step < 3 else 0.5 * 0.93**step) * (torch.where(slope > 0, high, low) - x)
    return best


@pytest.mark.parametrize("count", [4, 8, 16])
def test_bounds_are_nearly_attained(count: int) -> None:
    """Over boxes of radius 0.1 around rows of standard deviation 1; the parts are what makes them so near."""
    for seed in range(3):
        x = random_of(count, seed=seed)
        x = (x - x.mean()) / x.std(correction=0)
        gaps = []
        for pieces in (1, 4):
            forms = forms_of(FUNCTIONS[0], x, 0.1, seed, pieces)
            true, found = attained(FUNCTIONS[0], forms), forms.upper(RIGOROUS)[0, :, 0]
            assert bool((found >= true).all())
            sizes = [torch.linalg.vector_norm(t[0, :, 0], dim=-1) for t in (forms.u, forms.w)]
            gaps.append(float(((found - true) / (sizes[0] * sizes[1])).max()))
        assert gaps[1] <= 0.01
        assert gaps[1] <= gaps[0]


def test_cells_cover_the_ranges() -> None:
    forms = forms_of(FUNCTIONS[0], random_of(5), 0.1, 0, 3)
    seen: list[Cells] = []

    def noted(cells: Cells, _: rj.Rigorous) -> Tensor:
        seen.append(cells)
        return torch.zeros(27, 1, 3, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cells, "upper", noted)
        forms.upper(RIGOROUS)
    whole = forms.size
    for each in (seen[0].firsts, seen[0].seconds, seen[0].size):
        ends = {(float(a), float(b)) for a, b in zip(each.lower[:, 0, 0, 0, 0], each.upper[:, 0, 0, 0, 0], strict=True)}
        (a, b), (c, d), (e, f) = sorted(ends)
        assert a < b == c < d == e < f
    assert (a, f) == (float(whole.lower), float(whole.upper))


class Beside(nn.Module):
    """A normalisation between linear layers, and a linear connection beside it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 6), norm, nn.Linear(6, 4)

    def forward(self, t: Tensor) -> Tensor:
        y: Tensor = self.b(self.norm(self.a(t))) + t[:, :4]
        return y


CLOSED = rj.ClosedForms(rj.Chords())
METHODS: list[tuple[float, AbstractNormMethod]] = [
    (inf, rj.JacobianNorm(CLOSED)), (inf, rj.JacobianNorm(CLOSED, rj.PatternSum(3))), (1, rj.JacobianNorm(CLOSED)),
    (2, rj.TurnedNorm(CLOSED)),
]  # fmt: skip


@pytest.mark.parametrize(("p", "method"), METHODS, ids=repr)
@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6, 1e-3)], ids=["layer", "rms"])
def test_networks_of_one_normalisation(norm: nn.Module, p: float, method: AbstractNormMethod) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Beside(norm).double().requires_grad_(False)
    x = random_of(2, 5, seed=4)
    network = rj.load(module, x)
    for radius in (0.0, 0.05):
        found = rj.lipschitz(network, rj.LpBall(x, radius), p=p, q=p, method=method)
        assert found.provenance.rigorous
        assert bool((found.upper >= found.lower).all())
        assert bool((found.upper <= (1.001 if radius == 0 else 1.1) * found.lower).all())


@pytest.mark.parametrize(("p", "change"), [(inf, "sums"), (2, "bases")])
def test_a_layer_norm_with_gains_is_bounded_within_a_twentieth(p: float, change: str) -> None:
    """Where the chords of entries without a sign, or the product of norms, lose more."""
    layer = nn.LayerNorm(8).double().requires_grad_(False)
    g = torch.Generator().manual_seed(801)
    layer.weight.copy_(torch.randn(8, generator=g))
    x = torch.randn(1, 8, generator=g, dtype=torch.float64)
    network = rj.load(layer, x)
    better: dict[str, Callable[[], AbstractNormMethod]] = {
        "sums": lambda: rj.JacobianNorm(CLOSED, rj.PatternSum(3)),
        "bases": lambda: rj.TurnedNorm(CLOSED),
    }
    found, plain = (
        rj.lipschitz(network, rj.LpBall(x, 0.1), p=p, q=p, method=m)
        for m in (better[change](), rj.JacobianNorm(rj.Chords()))
    )
    assert float(found.upper) <= 1.05 * float(found.lower)
    assert float(found.upper) < 0.95 * float(plain.upper)
