"""Norms, Lipschitz constants, the search for lower bounds, and gradients with respect to weights."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.arithmetic import Interval
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.norms import AbstractNormMethod, AbstractRowSum, induced_norm
from recurjac.search import point_jacobian
from recurjac.search.directions import best_direction
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests import exact
from tests.marks import in_turn, often
from tests.test_definite import above

NORMS = (1.0, 2.0, rj.inf)
PAIRS = list(product(NORMS, NORMS))
QUICK = rj.Search(work=1e5, kept=4)


def gain(jacobian: Tensor, v: Tensor, p: float, q: float) -> Tensor:
    image = torch.einsum("nkr,nr->nk", jacobian, v)
    found: Tensor = torch.linalg.vector_norm(image, q, dim=-1) / torch.linalg.vector_norm(v, p, dim=-1)
    return found


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("seed", range(5))
def test_induced_norm_of_a_box_of_matrices(seed: int, p: float, q: float) -> None:
    """Every matrix of the box, in every direction tried; exact at corners for 1→q and p→inf."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(1, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    box = Interval(torch.minimum(a, b), torch.maximum(a, b))
    for arithmetic in (rj.Fast(), rj.Rigorous()):
        bound = induced_norm(box, p, q, arithmetic, arithmetic.at_least(box.magnitude.sum(-1), 4))
        share = torch.rand(500, 3, 4, generator=g, dtype=torch.float64).round()  # corners of the box
        matrices = box.lower + share * box.width
        gains, _ = best_direction(matrices, p, q)
        assert float(gains.max()) <= float(bound[0]) * (1 + 1e-14)
        largest = torch.where(box.lower.abs() > box.upper.abs(), box.lower, box.upper)
        if p == 1:
            exact = torch.linalg.vector_norm(largest, q, dim=1).max()
        elif q == rj.inf:
            exact = torch.linalg.vector_norm(largest, {2.0: 2, rj.inf: 1}[p], dim=2).max()
        else:
            continue
        assert float(bound[0]) == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_directions_are_of_length_one_and_give_their_gain(p: float, q: float) -> None:
    jacobian = torch.randn(20, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains, v = best_direction(jacobian, p, q)
    assert torch.allclose(torch.linalg.vector_norm(v, p, dim=-1), torch.ones(20, dtype=torch.float64))
    assert torch.allclose(gain(jacobian, v, p, q), gains)
    other = torch.randn(2000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    best = torch.stack([gain(j.expand(2000, -1, -1), other, p, q).max() for j in jacobian])
    assert bool((best <= gains * (1 + 1e-12)).all())


@pytest.mark.parametrize("kind", often((*KINDS, "mixed"), ("leaky", "mixed")))
@pytest.mark.parametrize("residual", [False, True], ids=["chain", "residual"])
def test_sampled_gains_are_below_every_constant(kind: str, residual: bool) -> None:
    network = random_network(kind, 4, residual)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    methods: list[AbstractJacobianMethod | AbstractNormMethod] = [
        rj.Chords(), rj.JacobianNorm(rj.RecurJac(), rj.SignSum()), rj.JacobianNorm(rj.Reversed(rj.Chords())),
        rj.JacobianNorm(rj.ReversedAfterFirst(rj.RecurJac()), rj.PlainSum()), rj.FastLip(), rj.ProductOfNorms(),
    ]  # fmt: skip
    for radius in (0.1, rj.inf):
        region = rj.LpBall(x, radius)
        points = region.bind((2, 2), torch.float64, torch.device("cpu")).sample(40, torch.Generator().manual_seed(2))
        jacobians = [true_jacobians(network, s).flatten(2) for s in points]
        for p, q in PAIRS if radius < rj.inf else PAIRS[::4]:
            true = torch.stack([best_direction(rows, p, q)[0].max() for rows in jacobians])
            for method in methods:
                lip = rj.lipschitz(network, region, p=p, q=q, method=method, search=rj.Search(work=0))
                assert bool((true <= lip.upper * (1 + 1e-12)).all()), (p, q, method)


@pytest.mark.parametrize(("norms", "kind"), in_turn(PAIRS, ["relu", "leaky", "tanh", "mixed"]))
def test_lower_is_attained_at_the_witness(norms: tuple[float, float], kind: str) -> None:
    (p, q), network = norms, random_network(kind, 7, True)
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = rj.LpBall(x, 0.3, clip=(-2.5, 2.5))
    lip = rj.lipschitz(network, region, p=p, q=q, search=QUICK)
    true = true_jacobians(network, lip.witness).flatten(2)
    assert torch.allclose(gain(true, lip.direction.flatten(1), p, q), lip.lower, rtol=1e-10)
    assert bool((lip.lower <= lip.upper).all())
    assert bool(((lip.witness - x).abs() <= 0.3).all())
    centre = best_direction(true_jacobians(network, x).flatten(2), p, q)[0]
    assert bool((lip.lower >= centre * (1 - 1e-10)).all())


def test_point_jacobian_is_the_jacobian() -> None:
    for kind in [*KINDS, "mixed"]:
        network = random_network(kind, 2, True)
        x = torch.randn(9, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.allclose(point_jacobian(network, x), true_jacobians(network, x).flatten(2), rtol=1e-10, atol=1e-12)


def test_a_kink_is_not_counted_as_attained() -> None:
    """|x| = relu(x) + relu(-x) is flat at 0 for PyTorch; Clarke's derivative there is [-1, 1], so 0 is attained."""
    weights = [(torch.tensor([[1.0], [-1.0]]), None), (torch.tensor([[1.0, 1.0]]), None)]
    network = rj.load(weights, activation="relu")
    lip = rj.lipschitz(network, rj.LpBall(torch.zeros(1), 0.0))
    assert float(lip.lower[0]) == 0.0
    assert float(lip.upper[0]) == pytest.approx(1.0, rel=1e-14)
    assert float(rj.lipschitz(network, rj.LpBall(torch.zeros(1), 1.0)).lower[0]) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("sums", [rj.SignSum(), rj.ChordSum(), rj.PatternSum(2)], ids=repr)
def test_better_sums_are_better(sums: AbstractRowSum) -> None:
    """Patterns <= chord form <= RecurJac's form <= plain, for pushing methods."""
    order = [rj.PlainSum(), rj.SignSum(), rj.ChordSum(), rj.PatternSum(2)]
    worse = order[[type(o) for o in order].index(type(sums)) - 1]
    for kind, radius in (("relu", 0.6), ("falling", 0.01), ("sigmoid", 0.6), ("gelu", 0.01)):
        network = random_network(kind, 1, False)
        for method in (rj.Chords(), rj.RecurJac(), rj.Reversed(rj.RecurJac())):
            one, other = (
                rj.lipschitz(
                    network, rj.LpBall(torch.zeros(2, 2), radius), method=rj.JacobianNorm(method, s),
                    search=rj.Search(work=0),
                ).upper
                for s in (sums, worse)
            )  # fmt: skip
            assert bool((one <= other * (1 + 1e-12)).all())


@pytest.mark.parametrize("sums", [rj.PlainSum(), rj.SignSum(), rj.ChordSum(), rj.PatternSum(2)], ids=repr)
def test_sums_of_independent_entries_of_any_sign_are_exact(sums: AbstractRowSum) -> None:
    """The gradient of Σ c |x| has all combinations of signs."""
    weights = torch.tensor([[1.0, -2.0, 0.5, 4.0, -0.25]], dtype=torch.float64)
    network = rj.load([(torch.eye(5, dtype=torch.float64), None), (weights, None)], activation="abs")
    ball = rj.LpBall(torch.tensor([0.1, -0.2, 0.3, 0.0, 0.5]), 1.0)
    found = float(rj.lipschitz(network, ball, method=rj.JacobianNorm(rj.Chords(), sums)).upper)
    assert 7.75 <= found <= 7.75 * (1 + 1e-12)


def test_networks_without_activation_are_exact() -> None:
    matrix = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -4.0]], dtype=torch.float64)
    network = rj.load([(matrix, None)], activation="relu")
    for radius in (0.0, 1.0, rj.inf):
        bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(3), radius))
        assert torch.equal(bounds.lower[0], matrix)
        assert torch.equal(bounds.upper[0], matrix)
        lip = rj.lipschitz(network, rj.LpBall(torch.zeros(3), radius))
        assert float(lip.lower[0]) == pytest.approx(6.0, rel=1e-14)
        assert float(lip.upper[0]) == pytest.approx(6.0, rel=1e-14)


@pytest.mark.parametrize("where", ["last layer zero", "middle layer zero", "all neurons dead"])
def test_an_output_that_does_not_depend_on_the_input_has_zero_bounds(where: str) -> None:
    """Exactly zero: no rounding radius is left over."""
    w = [torch.ones(3, 2), torch.ones(3, 3), torch.ones(2, 3)]
    bias = torch.zeros(3)
    if where == "all neurons dead":
        bias = torch.full((3,), -100.0)
    else:
        w[2 if where == "last layer zero" else 1] *= 0
    network = rj.load([(w[0], bias), (w[1], None), (w[2], None)], activation="relu")
    for method in (None, rj.FastLip(), rj.Reversed(rj.RecurJac()), rj.ReversedAfterFirst(rj.RecurJac())):
        bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(2), 0.5), method=method)
        assert float(bounds.upper.abs().max()) == 0.0
        assert float(bounds.lower.abs().max()) == 0.0
        lip = rj.lipschitz(network, rj.LpBall(torch.zeros(2), 0.5), method=method)
        assert (float(lip.upper[0]), float(lip.lower[0])) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("activation", "method", "case"),
    in_turn(
        [nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.ELU()],
        [rj.Chords(), rj.RecurJac(), rj.FastLip(), rj.ProductOfNorms()],
        [(rj.inf, "weight bias"), (2.0, "weight bias"), (rj.inf, "bias")],
    ),
)
def test_gradients_agree_with_finite_differences(
    activation: nn.Module,
    method: AbstractJacobianMethod | AbstractNormMethod,
    case: tuple[float, str],
) -> None:
    """Where biases alone are live, lines are and the forms of one sample that meet them, unreduced, are not."""
    p, live = case
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 6), activation, nn.Linear(6, 3)).double()
    region = rj.LpBall(torch.randn(2 if live != "bias" else 1, 4, dtype=torch.float64), 0.2, p)

    def bound() -> Tensor:
        network = rj.load(module, torch.zeros(1, 4))
        problem = rj.Problem(network, region, planner=rj.PlainOnly())
        return rj.lipschitz(problem, p=p, q=rj.inf, method=method, search=rj.Search(work=0)).upper.sum()

    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.split(".")[1] in live)
    parameters, value = [w for w in module.parameters() if w.requires_grad], bound()
    none = [None] * len(parameters)
    gradients = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else none
    moves = [torch.randn_like(w) for w in parameters]
    slope = sum((g * m).sum() for g, m in zip(gradients, moves, strict=True) if g is not None)
    step = 1e-6

    def moved(by: float) -> float:
        with torch.no_grad():
            for w, m in zip(parameters, moves, strict=True):
                w.add_(m, alpha=by)
            value = float(bound())
            for w, m in zip(parameters, moves, strict=True):
                w.sub_(m, alpha=by)
        return value

    measured = (moved(step) - moved(-step)) / (2 * step)
    assert float(slope) == pytest.approx(measured, rel=2e-5, abs=1e-7)


def test_a_training_step_lowers_the_bound() -> None:
    """The network shares the parameters of a module of its dtype: no reading again after each step."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    network = rj.load(module, torch.zeros(1, 3), dtype=torch.float32)
    region = rj.LpBall(torch.zeros(1, 3), 1.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = rj.lipschitz(network, region, search=rj.Search(work=0)).upper.sum()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", [rj.Chords(), rj.ProductOfNorms(), rj.QuadraticNorm(2)], ids=lambda m: m.title)
@pytest.mark.parametrize("seed", range(6))
def test_spectral_constants_hold_in_rational_arithmetic(
    seed: int, method: AbstractJacobianMethod | AbstractNormMethod, dtype: torch.dtype
) -> None:
    """No singular value of the exact Jacobian at the witness is above `upper`, and rounding is said to be covered."""
    network = random_network(("relu", "leaky")[seed % 2], seed, seed % 3 == 0, dtype, width=5, depth=2)
    lip = rj.lipschitz(network, rj.LpBall(torch.ones(2, 2), 0.3 * (seed % 2)), p=2, q=2, method=method, search=QUICK)
    assert lip.rigorous
    jacobian = exact.jacobian(network, lip.witness[0])
    gram = jacobian.T.dot(jacobian)
    assert above(Fraction(float(lip.upper[0])) ** 2, gram)
    direction = exact.rational(lip.direction[0].flatten())
    gain = direction.dot(gram.dot(direction)) / direction.dot(direction)
    assert Fraction(float(lip.lower[0])) ** 2 <= gain


def test_a_product_of_spectral_norms_counts_a_normalised_convolution_as_one_matrix() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).double()
    norm.running_var = torch.rand(4).double() + 0.1
    first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1).double(), norm)
    module = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3).double()).eval()
    x = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    found = rj.lipschitz(rj.load(module, x), rj.LpBall(x, rj.inf), p=2, q=2, method=rj.ProductOfNorms(), search=QUICK)
    matrix = torch.autograd.functional.jacobian(lambda v: first(v).flatten(), x).flatten(1)
    truth = float((torch.linalg.matrix_norm(matrix, 2) * torch.linalg.matrix_norm(module[3].weight, 2)).detach())
    assert found.rigorous
    assert truth * (1 - 1e-14) <= float(found.upper.detach()) <= truth * (1 + 1e-9)


@pytest.fixture
def default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("default_float64")
@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_float32_networks_where_float64_is_the_default(kind: str) -> None:
    """PyTorch's default dtype is no setting of ours (this was a bug)."""
    net = random_network(kind, 0, True, torch.float32)
    x = torch.zeros(1, 2, 2)
    assert rj.lipschitz(net, rj.LpBall(x, 0.1)).upper.dtype == torch.float32
    for p in (1, 2, torch.inf):
        assert float(rj.certified_radius(net, x, p=p).radius) >= 0


@pytest.mark.parametrize("most", [-1, True])
def test_numbers_of_patterns_are_whole_and_not_negative(most: int) -> None:
    with pytest.raises(rj.InvalidRequest, match=r"most of PatternSum is .*; give"):
        rj.PatternSum(most)


@pytest.mark.parametrize("most", range(5))
def test_patterns_and_what_is_left_of_the_others_make_the_whole_sum(most: int) -> None:
    """|x_1| + |x_2| + |x_3| has the derivatives -1 and 1 by each input: 3 whatever is enumerated."""
    eye = torch.eye(3, dtype=torch.float64)
    layers = [(torch.cat([eye, -eye]), torch.zeros(6).double()), (torch.ones(1, 6).double(), torch.zeros(1).double())]
    network = rj.load(layers,
                      activation="relu")  # fmt: skip
    method = rj.JacobianNorm(rj.Chords(), rj.PatternSum(most))
    found = rj.lipschitz(network, rj.LpBall(torch.zeros(1, 3, dtype=torch.float64), 1.0), method=method)
    assert 3.0 <= float(found.upper) <= 3 + 1e-9
