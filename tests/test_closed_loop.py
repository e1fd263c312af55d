"""Closed loops: the composition of a dynamics and a policy, step after step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.arithmetic import Ball
from recurjac.propagation.planning import Thresholds


def pendulum(x: Tensor, u: Tensor) -> Tensor:
    """One step of 0.05 s; the torque acts along a lever that turns."""
    angle, speed = x[:, :1], x[:, 1:]
    return torch.cat(
        [angle + 0.05 * speed, speed + 0.05 * (9.81 * angle.sin() - 0.1 * speed + 3 * u.clamp(-1, 1) * angle.cos())], 1
    )


class Learned(nn.Module):
    """Dynamics with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return x + 0.1 * torch.tanh(self.inner(torch.cat([x, u], 1)))


def cart_pole(x: Tensor, u: Tensor) -> Tensor:
    """One step of 0.02 s of a cart of 1 kg with a pole of 0.1 kg and 1 m, which a force of 10 u pushes."""
    speed, angle, turn = (x[:, i : i + 1] for i in range(1, 4))
    push = (10 * u + 0.05 * turn.square() * angle.sin()) / 1.1
    spin = (9.8 * angle.sin() - angle.cos() * push) / (0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1))
    return x + 0.02 * torch.cat([speed, push - 0.05 * spin * angle.cos() / 1.1, turn, spin], 1)


def policy(seed: int = 0, inputs: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def rolled(dynamics: object, control: object, x: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        x = dynamics(x, control(x))  # type: ignore[operator]
    return x


@pytest.mark.parametrize(
    "steps", [1, 3, pytest.param(5, marks=pytest.mark.slow), pytest.param(15, marks=pytest.mark.slow)]
)
def test_the_jacobian_of_the_last_state_is_bounded(steps: int) -> None:
    control, radius = policy(), 0.05
    network = rj.closed_loop(pendulum, control, steps, torch.zeros(2))
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(network(x), rolled(pendulum, control, x, steps), rtol=1e-9, atol=1e-9)
    region = rj.Box(-radius * torch.ones(1, 2), radius * torch.ones(1, 2))
    points = radius * (2 * torch.rand(200, 2, dtype=torch.float64) - 1)
    found = torch.func.vmap(torch.func.jacrev(lambda t: rolled(pendulum, control, t.unsqueeze(0), steps)[0]))(points)
    for method in (None, rj.ForwardTangents()):
        bounds = rj.jacobian_bounds(network, region, method=method)
        assert bool((bounds.lower - 1e-12 <= found).all())
        assert bool((found <= bounds.upper + 1e-12).all())
    width = float((bounds.upper - bounds.lower).detach().max())
    assert width < 3 * float((found.amax(0) - found.amin(0)).detach().max())  # by tangents that are carried forward


@pytest.mark.parametrize(
    ("dynamics", "inputs", "steps"),
    [
        (pendulum, 2, 3),
        (cart_pole, 4, 2),
        pytest.param(pendulum, 2, 10, marks=pytest.mark.slow),
        pytest.param(cart_pole, 4, 10, marks=pytest.mark.slow),
    ],
)
def test_the_default_is_near_the_sampled_range(
    dynamics: Callable[[Tensor, Tensor], Tensor], inputs: int, steps: int
) -> None:
    control, radius = policy(0, inputs), 0.02
    network = rj.closed_loop(dynamics, control, steps, torch.zeros(inputs))
    bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(1, inputs), radius))
    points = radius * (2 * torch.rand(500, inputs, dtype=torch.float64) - 1)
    points = torch.cat([points, radius * torch.tensor(list(product((-1.0, 1.0), repeat=inputs)), dtype=torch.float64)])
    found = torch.func.vmap(torch.func.jacrev(lambda t: rolled(dynamics, control, t.unsqueeze(0), steps)[0]))(points)
    assert bool((bounds.lower - 1e-12 <= found).all())
    assert bool((found <= bounds.upper + 1e-12).all())
    width = (bounds.upper - bounds.lower).detach().max()
    assert float(width) < 1.5 * float((found.amax(0) - found.amin(0)).detach().max())


def test_tangents_find_their_own_ranges() -> None:
    """Intervals say nothing of the values of a loop, but the forms that are carried forward do."""
    control, radius = policy().requires_grad_(False), 0.05
    network = rj.closed_loop(pendulum, control, 8, torch.zeros(2))
    region = rj.LpBall(torch.zeros(1, 2), radius)
    bounds = rj.jacobian_bounds(network, region, method=rj.ForwardTangents(), pre=rj.IBP())
    points = radius * (2 * torch.rand(400, 2, dtype=torch.float64) - 1)
    found = torch.func.vmap(torch.func.jacrev(lambda t: rolled(pendulum, control, t.unsqueeze(0), 8)[0]))(points)
    assert bool((bounds.lower - 1e-12 <= found).all() & (found <= bounds.upper + 1e-12).all())
    ranges = rj.preactivation_bounds(network, region, pre=rj.IBP())
    states = rolled(pendulum, control, points, 8)
    assert float((ranges.upper[-1] - ranges.lower[-1]).max()) > 1.2 * float((states.amax(0) - states.amin(0)).max())
    width = float((bounds.upper - bounds.lower).max())
    assert width < 2 * float((found.amax(0) - found.amin(0)).max())


@pytest.mark.parametrize("batch", [1, 2])
def test_constants_of_loops_are_near_what_is_attained_however_short_the_time(batch: int) -> None:
    network = rj.closed_loop(cart_pole, policy(0, 4).requires_grad_(False), 5, torch.zeros(4))
    x = 0.1 * torch.randn(batch, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rj.lipschitz(network, rj.LpBall(x, 0.01), p=2, q=2, time_limit=0.2)
    assert bool((found.lower > 0).all() & (found.upper < 1.05 * found.lower).all())
    assert "forward tangents" in found.note
    assert ("time" in found.status) == ("; time was up" in repr(found))


def test_tangents_are_carried_for_loops_only() -> None:
    planner, loop = rj.Planner(), rj.closed_loop(pendulum, policy(), 2, torch.zeros(2))
    assert planner.carries_tangents(loop) > 500
    layers: list[nn.Module] = []
    for activation, inputs in ((nn.ReLU(), 4), (nn.Tanh(), 4), (nn.Tanh(), 40)):
        layers = [m for _ in range(3 if inputs == 4 else 10) for m in (nn.Linear(inputs, inputs), activation)]
        network = rj.load(nn.Sequential(*layers).double(), torch.zeros(inputs))
        assert planner.carries_tangents(network) == 0
        region = rj.LpBall(torch.zeros(1, inputs), 0.1)
        how = rj.Chords(), rj.WithTangents(rj.Chords())
        one, other = (rj.jacobian_bounds(network, region, method=m) for m in how)
        torch.testing.assert_close(one.upper, other.upper, rtol=0, atol=0)
    both, single = rj.WithTangents(rj.Chords()), rj.Chords()
    region = rj.LpBall(torch.zeros(2, 2), torch.tensor([[0.1], [3.0]]))
    parts = [rj.jacobian_bounds(loop, region, method=m) for m in (both, single, rj.ForwardTangents(2048))]
    assert bool((parts[0].upper <= torch.minimum(parts[1].upper, parts[2].upper) + 1e-12).all())
    everywhere = [rj.jacobian_bounds(loop, rj.LpBall(torch.zeros(1, 2), rj.inf), method=m) for m in (both, single)]
    torch.testing.assert_close(everywhere[0].upper, everywhere[1].upper, rtol=0, atol=0)


def test_a_loop_follows_the_weights_of_both() -> None:
    torch.manual_seed(1)
    control, dynamics = policy(1), Learned().double()
    network = rj.closed_loop(dynamics, control, 3, torch.zeros(1, 2, dtype=torch.float64))
    x = torch.randn(1, 2, dtype=torch.float64)
    rj.jacobian_bounds(network, rj.LpBall(x, 0.1)).upper.sum().backward()
    weights = [*control.parameters(), *dynamics.parameters()]
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in weights)
    torch.optim.SGD(weights, lr=0.1).step()
    torch.testing.assert_close(network(x), rolled(dynamics, control, x, 3), rtol=1e-12, atol=1e-12)


def test_many_steps_are_the_steps_one_after_another() -> None:
    control, dynamics = policy(2), Learned().double()
    one, three = (rj.closed_loop(dynamics, control, k, torch.zeros(2)) for k in (1, 3))
    x = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(three(x), one(one(one(x))), rtol=1e-12, atol=1e-12)


def test_what_is_no_loop_is_refused() -> None:
    control = policy()
    with pytest.raises(rj.InvalidRequest, match="0 steps"):
        rj.closed_loop(pendulum, control, 0, torch.zeros(2))
    with pytest.raises(rj.InvalidNetwork, match="both must agree"):
        rj.closed_loop(lambda x, u: torch.cat([x, u], 1), control, 2, torch.zeros(2))
    with pytest.raises(rj.InvalidRequest, match="the policy is a Network"):
        rj.closed_loop(pendulum, rj.load(control, torch.zeros(2)), 1, torch.zeros(2))


class Products:
    """The number of products with operators and matrices, and a clock on which each takes as long."""

    each = 1e-3

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("linear", "matmul"):
            patch.setattr(Ball, name, self.counted(getattr(Ball, name)))

    def counted(self, product: Callable[..., Ball]) -> Callable[..., Ball]:
        def multiplied(*args: object) -> Ball:
            self.count += 1
            return product(*args)

        return multiplied

    def now(self) -> float:
        return self.each * self.count


def test_few_products_bound_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terms of a step are merged; before, each product with a stage was one with each of its small operators."""
    products, bounds, spent = Products(monkeypatch), [], []
    network, region = (
        rj.closed_loop(pendulum, policy().requires_grad_(False), 3, torch.zeros(2)),
        rj.LpBall(torch.zeros(1, 2), 0.05),
    )
    for planner in (rj.Planner(), rj.Planner(Thresholds(merged_entries=0))):
        before = products.count
        problem = rj.Problem(network, region, planner=planner)
        bounds.append(rj.jacobian_bounds(problem, method=rj.Chords()).upper)
        spent.append(products.count - before)
    assert 1.75 * spent[0] < spent[1]
    assert bool((bounds[0] <= bounds[1] + 1e-12).all())


def test_the_default_keeps_to_its_time_and_is_as_tight_as_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that counts products, so that the test does not depend on the machine."""
    network, region = (
        rj.closed_loop(pendulum, policy().requires_grad_(False), 3, torch.zeros(2)),
        rj.LpBall(torch.zeros(1, 2), 0.2),
    )
    products = Products(monkeypatch)
    one = rj.lipschitz(network, region, method=rj.JacobianNorm(), search=rj.Search(work=0))
    once = products.now()
    monkeypatch.setattr("time.monotonic", products.now)
    monkeypatch.setattr("time.perf_counter", products.now)
    for limit in (2 * once, 6 * once):
        began = products.now()
        auto = rj.lipschitz(network, region, time_limit=limit)
        assert products.now() - began < 1.1 * limit
        assert float(auto.upper) <= float(one.upper) * (1 + 1e-9)
    assert float(auto.upper) < 1.001 * float(auto.lower) < 0.995 * float(one.upper)


def test_as_many_cuts_as_are_quick() -> None:
    """Every state is a cut; the bounds of each of the two halves cost as much as those of the whole."""
    assert [rj.Planner().cuts(nodes) for nodes in (1, 4, 40, 127, 129, 1000)] == [128, 32, 3, 1, 1, 1]
    network, region = (
        rj.closed_loop(pendulum, policy().requires_grad_(False), 6, torch.zeros(2)),
        rj.LpBall(torch.zeros(1, 2), 1.0),
    )
    few, more, none = (
        rj.jacobian_bounds(rj.Problem(network, region, planner=rj.Planner(Thresholds(cut_nodes=n))), method=method)
        for n, method in ((1, rj.Cut(rj.Chords())), (10**6, rj.Cut(rj.Chords())), (1, rj.Chords()))
    )
    widths = [float((b.upper - b.lower).sum()) for b in (more, few, none)]
    assert widths == sorted(widths)
    assert widths[0] < 0.9999 * widths[2]


def _unbatched(x: Tensor, u: Tensor) -> Tensor:
    return torch.stack([x[1], u[0] - x[0]])


def _numpy(x: Tensor, u: Tensor) -> Tensor:
    return torch.tensor(np.concatenate([x.detach().numpy()[:, 1:], u.detach().numpy()], 1))


def _short(x: Tensor, u: Tensor) -> Tensor:
    return x[:, :1] + u


def _array(x: Tensor, u: Tensor) -> Any:
    return (x + u).detach().numpy()


def _branching(x: Tensor, u: Tensor) -> Tensor:
    return pendulum(x, u) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("dynamics", "state", "words"),
    [
        (pendulum, 3, ("the policy fails", "shape (3,)", "example of the states")),
        (_unbatched, 2, ("the dynamics fail", "x[:, 0], not x[0]")),
        (_numpy, 2, ("PyTorch in place of NumPy",)),
        (_short, 2, ("both must agree",)),
        (_array, 2, ("return a ndarray", "tensor")),
        (_branching, 2, ("remove control flow",)),
    ],
    ids=["length", "unbatched", "numpy", "short", "array", "branching"],
)
def test_what_is_wrong_with_a_step_is_said(dynamics: Any, state: int, words: tuple[str, ...]) -> None:
    for x in (torch.zeros(state), torch.zeros(1, state)):
        with pytest.raises(rj.InvalidNetwork) as caught:
            rj.closed_loop(dynamics, policy(), 2, x)
        assert not [w for w in words if w not in str(caught.value)], caught.value


def test_errors_name_the_line_of_the_user() -> None:
    """Never that of the library's own step; functions have none, as PyTorch records the lines of modules only."""

    class Rounded(nn.Module):
        def forward(self, x: Tensor, u: Tensor) -> Tensor:
            return x + torch.round(u)

    for dynamics, control, place in (
        (Rounded(), policy(), "test_closed_loop.py"),
        (lambda x, u: x + torch.round(u), policy(), "aten.round"),
        (pendulum, nn.Sequential(policy(), nn.Hardshrink()), "hardshrink"),
    ):
        with pytest.raises(rj.RecurJacError) as caught:
            rj.closed_loop(dynamics, control, 2, torch.zeros(2))
        assert place in str(caught.value)
        assert "loop_step.py" not in str(caught.value)
