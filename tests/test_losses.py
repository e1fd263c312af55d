"""Losses from bounds: never below what is sampled, exact at a point, with the gradients of their values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import pytest
import torch
from beartype.roar import BeartypeException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations

import recurjac as rj
from recurjac.preactivation.combinations import combined_output
from recurjac.training import (
    Bounds,
    certified_margin_loss,
    gradient_norm_penalty,
    lipschitz_margin_loss,
    lipschitz_penalty,
    monotonicity_loss,
)
from tests.helpers import refused

DOUBLE = torch.float64
BATCH, INPUTS, CLASSES = 3, 4, 3
KINDS: dict[str, dict[str, Any]] = {
    "cheap": {},
    "full": {"method": rj.Chords(), "pre": rj.Crown()},
    "rigorous": {"arithmetic": rj.Rigorous()},
    "norm method": {
        "method": rj.TightestNorm(rj.JacobianNorm(rj.RecurJac()), rj.ProductOfNorms()),
        "pre": rj.FastLin(),
    },
}
every_kind = pytest.mark.parametrize("kind", KINDS)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(INPUTS, 5), nn.Linear(5, CLASSES)
        self.skip = nn.Linear(INPUTS, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))) + self.skip(x)  # type: ignore[no-any-return]


def dense(outputs: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, outputs))


def convolved() -> nn.Sequential:
    made = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Softplus())
    return nn.Sequential(made, nn.Flatten(), nn.Linear(2, CLASSES))


MAKERS: dict[str, Callable[[], nn.Module]] = {"dense": dense, "residual": Residual, "convolved": convolved}
FOUND: dict[str, tuple[nn.Module, dict[str, Bounds]]] = {}
"""What was traced already."""


def traced(name: str) -> tuple[nn.Module, dict[str, Bounds]]:
    """A module and its bounds of every kind."""
    if name not in FOUND:
        torch.manual_seed(0)
        module = MAKERS[name]().to(DOUBLE).eval()
        first = Bounds(module, example())
        FOUND[name] = module, {k: _with(first, **settings) for k, settings in KINDS.items()}
    return FOUND[name]


def _with(bounds: Bounds, **settings: object) -> Bounds:
    """The same module with other settings, without tracing it again."""
    made = object.__new__(Bounds)
    for name in ("method", "pre", "arithmetic", "_source"):
        object.__setattr__(made, name, settings.get(name, getattr(bounds, name)))
    return made


def example() -> Tensor:
    return torch.rand(1, INPUTS, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(BATCH, INPUTS, dtype=DOUBLE, generator=g)
    return x, torch.randint(CLASSES, (BATCH,), generator=g)


def inside(region: rj.LpBall, count: int = 60) -> Tensor:
    """Points of each ball: (batch, count, inputs)."""
    return region.bind((INPUTS,), DOUBLE, torch.device("cpu")).sample(count, torch.Generator().manual_seed(1))


def jacobians(module: nn.Module, points: Tensor) -> Tensor:
    """(…, outputs, inputs) for points (…, inputs)."""
    one = torch.func.vmap(torch.func.jacrev(lambda x: module(x.unsqueeze(0))[0]))
    found: Tensor = one(points.reshape(-1, INPUTS)).detach()
    return found.reshape(*points.shape[:-1], -1, INPUTS)


def number(loss: Tensor) -> float:
    return float(loss.detach())


def induced(matrices: Tensor, p: float, q: float) -> Tensor:
    """‖J‖_{p→q}, by the corners of the ball for p = inf, by its vertices for p = 1, and for p = 2 where it is easy."""
    if p == 2:
        rows: Tensor = torch.linalg.vector_norm(matrices, 2, -1).amax(-1)
        return rows if q == inf else torch.linalg.svdvals(matrices)[..., 0]
    ways = torch.eye(INPUTS, dtype=DOUBLE) if p == 1 else torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * INPUTS)
    most: Tensor = torch.linalg.vector_norm(matrices @ ways.to(DOUBLE).mT, q, dim=-2).amax(-1)
    return most


PAIRS = [(inf, inf), (inf, 1), (1, 2), (2, 2), (2, inf)]


@pytest.mark.parametrize("name", MAKERS)
def test_penalties_are_not_below_what_is_sampled(name: str) -> None:
    module, known = traced(name)
    x, _ = batch()
    for p, q in PAIRS:
        ball = rj.LpBall(x, 0.2, p)
        truth = induced(jacobians(module, inside(ball, 30)), p, q).amax(1)
        for bounds in known.values():
            bound = bounds.lipschitz(ball, p=p, q=q).detach()
            assert bool((bound >= truth * (1 - 1e-12)).all())
            found = lipschitz_penalty(bounds, ball, p=p, q=q, target=0.5).detach()
            assert float(found) == pytest.approx(float((bound - 0.5).clamp(min=0).mean()))


@pytest.mark.parametrize("name", MAKERS)
def test_losses_of_margins_are_not_below_what_is_sampled(name: str) -> None:
    module, known = traced(name)
    x, labels = batch()
    for p in (1.0, 2.0, inf):
        ball = rj.LpBall(x, 0.2, p)
        points = inside(ball)
        each = cross_entropy(module(points.flatten(0, 1)), labels.repeat_interleave(points.shape[1]), reduction="none")
        worst = float(each.detach().reshape(BATCH, -1).amax(1).mean())
        for bounds in known.values():
            assert number(certified_margin_loss(bounds, ball, labels)) >= worst - 1e-12
            assert number(lipschitz_margin_loss(bounds, ball, labels)) >= worst - 1e-12


@pytest.mark.parametrize("name", MAKERS)
@every_kind
@torch.no_grad()
def test_at_a_point_they_are_exact(name: str, kind: str) -> None:
    module, known = traced(name)
    x, labels = batch(1)
    bounds, point = known[kind], rj.LpBall(x, 0.0)
    plain = float(cross_entropy(module(x), labels))
    assert number(certified_margin_loss(bounds, point, labels)) == pytest.approx(plain, rel=1e-9)
    assert number(lipschitz_margin_loss(bounds, point, labels)) == pytest.approx(plain, rel=1e-9)
    truth = jacobians(module, x)
    for p, q in ((inf, inf), (1.0, 2.0), (2.0, inf)):
        exact = float(induced(truth, p, q).mean())
        assert number(lipschitz_penalty(bounds, rj.LpBall(x, 0.0, p), p=p, q=q)) == pytest.approx(exact, rel=1e-9)
    if kind == "norm method":
        refused(lambda: monotonicity_loss(bounds, point, torch.ones(INPUTS)), rj.InvalidRequest, ("entries", "FastLip"))
        return
    signs = torch.tensor([[1, -1, 0, 1], [0, 0, 0, 0], [-1, -1, 1, 0]])
    wrong = float((0.1 - signs * truth).clamp(min=0)[:, signs != 0].sum(1).mean())
    assert number(monotonicity_loss(bounds, point, signs, margin=0.1)) == pytest.approx(wrong, rel=1e-9)


def losses(bounds: Bounds) -> dict[str, Callable[[], Tensor]]:
    x, labels = batch(2)
    ball, round_ball = rj.LpBall(x, 0.1, clip=(0, 1)), rj.LpBall(x, 0.3, 2)
    return {
        "lipschitz": lambda: lipschitz_penalty(bounds, ball, target=0.01),
        "lipschitz 2": lambda: lipschitz_penalty(bounds, round_ball, p=2, q=2),
        "margins": lambda: certified_margin_loss(bounds, ball, labels),
        "slopes": lambda: lipschitz_margin_loss(bounds, round_ball, labels),
        "monotone": lambda: monotonicity_loss(bounds, ball, torch.tensor([1, -1, 0, 1])),
    }


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["cheap", "full"])
def test_gradients_are_those_of_the_values(name: str, kind: str) -> None:
    """Against differences along a random direction of all parameters."""
    module, known = traced(name)
    weights = list(module.parameters())
    g = torch.Generator().manual_seed(5)
    way = [torch.randn(w.shape, dtype=DOUBLE, generator=g) for w in weights]
    for what, loss in losses(known[kind]).items():
        slopes = torch.autograd.grad(loss(), weights, allow_unused=True)
        found = sum(float((s * v).sum()) for s, v in zip(slopes, way, strict=True) if s is not None)
        step, ends = 1e-6, []
        for sign in (1, -2, 1):  # there, back beyond, and home
            with torch.no_grad():
                for w, v in zip(weights, way, strict=True):
                    w.add_(sign * step * v)
            ends.append(number(loss()))
        assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-4, abs=1e-6), what
        assert found != 0, what


@pytest.mark.parametrize("name", MAKERS)
def test_bounds_that_were_made_without_gradients_follow_a_step(name: str) -> None:
    """Views of parameters that PyTorch makes without gradients could not be read after a step."""
    module = MAKERS[name]()
    with torch.no_grad():
        bounds = Bounds(module, example())
        for w in module.parameters():
            w.add_(0.01 * torch.ones_like(w))
    region = rj.LpBall(batch()[0], 0.1)
    loss = lipschitz_penalty(bounds, region, target=0.01)
    again = lipschitz_penalty(Bounds(module, example()), region, target=0.01)
    weights = list(module.parameters())
    slopes, wanted = (torch.autograd.grad(each, weights, allow_unused=True) for each in (loss, again))
    assert torch.equal(loss, again)
    assert any(s is not None and bool(s.any()) for s in slopes)
    assert all(
        a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(slopes, wanted, strict=True)
    )


def _critic() -> nn.Module:
    torch.manual_seed(1)
    return dense(1).to(DOUBLE)


def test_the_penalty_of_a_critic_covers_the_segments() -> None:
    critic, (real, _), (fake, _) = _critic(), batch(3), batch(4)
    share = torch.linspace(0, 1, 101, dtype=DOUBLE).reshape(1, -1, 1)
    points = real.unsqueeze(1) + share * (fake - real).unsqueeze(1)
    bounds = Bounds(critic, example())
    for p, dual in ((2.0, 2.0), (inf, 1.0), (1.0, inf)):
        norms = torch.linalg.vector_norm(jacobians(critic, points)[:, :, 0], dual, dim=-1).amax(1)
        worst = float((norms - 0.1).clamp(min=0).square().mean())
        found = [number(gradient_norm_penalty(bounds, real, fake, p=p, target=0.1, pieces=k)) for k in (1, 4, 200)]
        assert worst - 1e-12 <= found[2] <= found[1] <= found[0]
        assert found[2] <= 1.2 * worst + 1e-3
    live = fake.clone().requires_grad_()
    gradient_norm_penalty(bounds, real, live, target=0.1).backward()
    assert live.grad is None
    assert all(w.grad is not None for w in list(critic.parameters())[::2])


WRAPPERS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_parametrised_modules_are_followed(name: str) -> None:
    """Gradients reach the raw parameters, and each step sees the weights of the last one."""
    torch.manual_seed(2)
    wrap = WRAPPERS[name]
    module = nn.Sequential(wrap(nn.Linear(INPUTS, 5)), nn.ReLU(), wrap(nn.Linear(5, CLASSES))).to(DOUBLE)
    (x, labels), bounds = batch(5), Bounds(module, example())
    ball, optimiser = rj.LpBall(x, 0.05), torch.optim.SGD(module.parameters(), lr=0.05)
    raw = [w for k, w in module.named_parameters() if "original" in k]
    seen = []
    for _ in range(3):
        module.train()(x)  # spectral norms go on with their iteration
        loss = certified_margin_loss(bounds, ball, labels)
        assert number(loss) >= number(cross_entropy(module.eval()(x), labels)) - 1e-9
        fresh = rj.load(module, example())
        assert torch.equal(bounds.network()(x), fresh(x))
        optimiser.zero_grad()
        loss.backward()
        assert any(w.grad is not None and bool(w.grad.any()) for w in raw)
        optimiser.step()
        seen.append(number(loss))
    assert seen[-1] < seen[0]


def test_weights_are_followed_in_place_and_statistics_are_read_again() -> None:
    torch.manual_seed(0)  # with others, all neurons may be off at both inputs
    module = dense()
    bounds = Bounds(module, torch.rand(1, INPUTS))
    assert bounds.network() is bounds.first
    assert bounds.network().dtype == torch.float32
    module[0] = nn.Linear(INPUTS, 6)  # other parameters
    x = torch.rand(2, INPUTS)
    torch.testing.assert_close(bounds.network()(x), module(x))
    normal = nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    bounds = Bounds(normal, torch.rand(1, INPUTS))
    before = bounds.network()(x)
    normal(10 * torch.rand(20, INPUTS))
    assert normal.training
    torch.testing.assert_close(bounds.network()(x), normal.eval()(x))
    assert not torch.allclose(bounds.network()(x), before)


def test_samples_do_not_depend_on_each_other() -> None:
    _, known = traced("dense")
    x, labels = batch(6)
    for bounds in known.values():
        alone = [certified_margin_loss(bounds, rj.LpBall(x[i : i + 1], 0.1), labels[i : i + 1]) for i in range(BATCH)]
        together = certified_margin_loss(bounds, rj.LpBall(x, 0.1), labels)
        assert number(together) == pytest.approx(number(torch.stack(alone).mean()), rel=1e-9)
        own = torch.cat([bounds.lipschitz(rj.LpBall(x[i], 0.1)) for i in range(BATCH)])
        torch.testing.assert_close(bounds.lipschitz(rj.LpBall(x, 0.1)), own)


@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=["fast", "rigorous"])
@pytest.mark.parametrize("name", MAKERS)
def test_combinations_are_not_looser_than_a_network_with_these_outputs(
    name: str, arithmetic: rj.Fast | rj.Rigorous
) -> None:
    """With other rows for each sample; between dense layers, CROWN bounds both alike."""
    network = rj.load(traced(name)[0], example())
    rows = torch.randn(BATCH, 2, CLASSES, dtype=DOUBLE, generator=torch.Generator().manual_seed(7))
    ball = rj.LpBall(batch()[0], 0.1)
    values = torch.einsum("brk,bnk->bnr", rows, network(inside(ball).flatten(0, 1)).reshape(BATCH, -1, CLASSES))
    for rule in (rj.IBP(), rj.Crown()):
        problem = rj.Problem(network, ball, pre=rule, arithmetic=arithmetic)
        found = combined_output(problem.preactivations(), problem.pre, rows)
        assert bool((found.lower <= values.amin(1)).all() and (values.amax(1) <= found.upper).all())
        for i in range(BATCH):
            other = rj.Problem(network.combine(rows[i]), ball, pre=rule, arithmetic=arithmetic)
            own = other.output(other.preactivations())
            for a, b in ((found.lower, own.lower), (-found.upper, -own.upper)):
                assert bool((a[i] >= b[i] - 1e-9).all())
                if name == "dense" and rule == rj.Crown():
                    torch.testing.assert_close(a[i], b[i], rtol=1e-9, atol=1e-9)


@every_kind
@pytest.mark.parametrize("extra", [0, 60], ids=["small", "large"])
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_rows_chosen_from_a_table_are_bounded_as_if_they_were_given(name: str, extra: int, kind: str) -> None:
    """Also from a table that is too large to be bounded whole."""
    bounds, g = traced(name)[1][kind], torch.Generator().manual_seed(3)
    table = torch.randn(4 + extra, CLASSES, dtype=DOUBLE, generator=g)
    chosen, ball = torch.randint(len(table), (BATCH, 2), generator=g), rj.LpBall(batch()[0], 0.1)
    found, given = bounds.chosen_margins(ball, table, chosen), bounds.margins(ball, table[chosen])
    torch.testing.assert_close(found, given, rtol=1e-12, atol=1e-12)


def test_what_is_proved_to_be_monotone_costs_nothing() -> None:
    module = dense(1).to(DOUBLE)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "weight" in name:
                weight.abs_()
    box = rj.Box([0.0] * INPUTS, [1.0] * INPUTS)
    bounds = Bounds(module, example())
    assert number(monotonicity_loss(bounds, box, [1, 1, 1, 1])) == 0
    assert number(monotonicity_loss(bounds, box, [-1, 0, 0, 0])) > 0
    assert bool(rj.monotone(rj.load(module, example()), box).increasing.all())


def test_bounds_that_overflow_are_infinite() -> None:
    (x, labels), module = batch(), dense()
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1e30)
    bounds = Bounds(dense(), x[:1].float())
    wild = _with(bounds, _source=rj.load(module.double(), x[:1]))
    assert number(lipschitz_penalty(wild, rj.LpBall(x, 1e300))) > 1e50  # not NaN
    assert number(certified_margin_loss(wild, rj.LpBall(x, inf), labels)) == inf
    assert number(lipschitz_margin_loss(wild, rj.LpBall(x, inf), labels)) == inf


def dead(method: Any) -> tuple[nn.Module, Bounds]:
    """A module whose last hidden neurons are off on all of the inputs near 0, with its bounds."""
    module = dense().to(DOUBLE)
    with torch.no_grad():
        torch.nn.init.constant_(module.get_parameter("2.bias"), -50.0)
    return module, Bounds(module, example(), method=method)


@pytest.mark.parametrize("method", [rj.FastLip(), rj.RecurJac(), rj.Chords(), rj.JacobianNorm(rj.Chords())], ids=str)
def test_dead_neurons_do_not_stop_a_training(method: Any) -> None:
    """Bounds that are constant have gradients of 0."""
    torch.manual_seed(0)
    module, bounds = dead(method)
    ball, labels = rj.LpBall(torch.zeros(BATCH, INPUTS, dtype=DOUBLE), 0.1), batch()[1]
    penalty = lipschitz_penalty(bounds, ball)
    (penalty + monotonicity_loss(bounds, ball, [1] * INPUTS) + lipschitz_margin_loss(bounds, ball, labels)).backward()
    assert number(penalty) == 0
    slopes = [weight.grad for name, weight in module.named_parameters() if "weight" in name]
    assert all(slope is not None and bool((slope == 0).all()) for slope in slopes)


def test_methods_without_gradients_are_refused_for_dead_neurons_too() -> None:
    _, bounds = dead(rj.Auto(0.1))
    ball = rj.LpBall(torch.zeros(1, INPUTS, dtype=DOUBLE), 0.1)
    refused(lambda: lipschitz_penalty(bounds, ball), rj.InvalidRequest, ("no gradients", "FastLip"))


def test_bad_requests_are_refused() -> None:
    module, known = traced("dense")
    bounds, (x, labels) = known["cheap"], batch()
    ball, ask = rj.LpBall(x, 0.1), rj.InvalidRequest
    with pytest.raises((ask, BeartypeException)):
        lipschitz_penalty(module, ball)  # type: ignore[arg-type]
    with pytest.raises((ask, BeartypeException)):
        Bounds(bounds.first, method="fastlip")  # type: ignore[arg-type]
    refused(lambda: lipschitz_penalty(bounds, ball, p=3), ask, ("3", "1, 2 or inf"))
    refused(lambda: lipschitz_penalty(bounds, ball, target=-1), ask, ("-1", "not negative"))
    refused(lambda: lipschitz_penalty(bounds, ball, target=float("nan")), ask, ("nan", "not negative"))
    refused(lambda: lipschitz_penalty(bounds, rj.LpBall(x[:, :2], 0.1)), rj.InvalidRegion, ("(3, 2)", "(4,)"))
    for wrong in ([0, 1, 3], [-1, 0, 0], [0.5, 0, 0], torch.zeros(0, dtype=torch.long)):
        refused(partial(certified_margin_loss, bounds, ball, wrong), ask, ("classes", "0 to 2"))
    for loss in (certified_margin_loss, lipschitz_margin_loss):
        refused(partial(loss, bounds, ball, [0, 1]), ask, ("(2, 2, 3)", "3 inputs"))
    box = rj.Box(x, x)
    with pytest.raises((ask, BeartypeException)):
        lipschitz_margin_loss(bounds, box, labels)  # type: ignore[arg-type]
    refused(lambda: monotonicity_loss(bounds, ball, [1, 0]), ask, ("(2,)", "(4,)"))
    refused(lambda: monotonicity_loss(bounds, ball, [2, 0, 0, 0]), ask, ("2", "1, -1 and 0"))
    refused(lambda: monotonicity_loss(bounds, ball, [1, 0, 0, 0], margin=inf), ask, ("margin", "inf"))
    refused(lambda: gradient_norm_penalty(bounds, x, x), ask, ("one output", "3"))
    critic = Bounds(_critic(), example())
    refused(lambda: gradient_norm_penalty(critic, x, x[:2]), rj.InvalidRegion, ("(3, 4)", "(2, 4)"))
    refused(lambda: gradient_norm_penalty(critic, x, x, pieces=0), ask, ("0", "1 or more"))
    refused(lambda: certified_margin_loss(critic, ball, labels), ask, ("one output",))
    refused(lambda: Bounds(bounds.first, x), ask, ("example", "module"))
    slow = _with(bounds, method=rj.Auto(0.1))
    refused(lambda: lipschitz_penalty(slow, rj.LpBall(x[:1], 0.1)), ask, ("no gradients", "FastLip"))


def test_weights_that_are_not_numbers_are_refused() -> None:
    module, (x, labels) = dense(), batch()
    bounds, ball = Bounds(module, x[:1].float()), rj.LpBall(x, 0.1)
    with torch.no_grad():
        dict(module.named_parameters())["2.weight"][0, 0] = torch.nan
    for loss in (certified_margin_loss, lipschitz_margin_loss):
        refused(partial(loss, bounds, ball, labels), rj.InvalidNetwork, ("NaN", "stage 2"))
    refused(lambda: lipschitz_penalty(bounds, ball), rj.InvalidNetwork, ("NaN",))
    mixed = nn.Sequential(nn.Linear(INPUTS, 2), nn.ReLU(), nn.Linear(2, 2).double())
    refused(lambda: Bounds(mixed.bfloat16(), x[:1].bfloat16()), rj.InvalidNetwork, ("0.weight", "float32"))
