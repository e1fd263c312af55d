"""Lengths of gradients by a linear network of single steps, against sampled values, derivatives and Jacobians."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from math import inf, prod

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from benchmarks.architectures import ARCHITECTURES
from recurjac.activations import NormalisedRows, SoftmaxRows
from recurjac.auto.opening import open_steps
from recurjac.auto.work import Question, Work
from recurjac.deadline import NEVER, Deadline
from recurjac.jacobian import GradientForms, Gradients, linear_steps, step_lengths
from recurjac.jacobian.linear_network import lengths_of
from recurjac.jacobian.linear_steps import LinearSteps, Part
from recurjac.jacobian.near_linear import AbstractNearLinear, Activated, Multiplied, Near, OfRows
from recurjac.jacobian.near_normalised import Normalised
from recurjac.jacobian.pushed_sizes import Arrived
from recurjac.jacobian.step_lengths import lengths_by_steps
from recurjac.jacobian.steps import Steps
from recurjac.network import Network
from recurjac.propagation.planning import Thresholds
from recurjac.search.jacobians import point_jacobian
from tests.helpers import points_of
from tests.marks import in_turn

NAMES = ("ViT, 2 blocks", "ViT, 2 blocks, 17 tokens", "encoder layer", "encoder, 2 layers")
RADII = (0.0, 1e-5, 1e-3, 0.03, 0.5)


@cache
def small(name: str, outputs: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Network, Tensor]:
    """A small architecture, and an input; one output of it, or all."""
    module, x = ARCHITECTURES[name].made(False)
    network = rj.load(module.to(dtype), x.to(dtype))
    return (network if outputs else network.output(prod(network.output_shape) // 2)), x.to(dtype)


def check(problem: rj.Problem, deadline: Deadline) -> float:
    """Rows hold all sampled gradients; returns the largest bound as a multiple of theirs, infinite if there is none."""
    found = lengths_by_steps(problem, deadline)
    if found is None:
        return inf
    wide = problem.network.to(dtype=torch.float64)
    true = point_jacobian(wide, points_of(problem).double()).abs().flatten(2).sum(2).amax(0).flatten()
    assert found.shape == true.shape
    assert bool((true * (1 - 1e-9) <= found).all())
    return float(found.max() / true.max())


@pytest.mark.parametrize(("name", "seconds", "radius"), in_turn(NAMES, (inf, 0.0), RADII))
def test_lengths_hold(name: str, seconds: float, radius: float) -> None:
    """Also where there is no time for noises."""
    network, x = small(name)
    ratio = check(rj.Problem(network, rj.LpBall(x, radius)), Deadline.after(seconds))
    assert ratio <= {0.0: 1.01, 1e-5: 1.01}.get(radius, inf) or (seconds == 0 and radius > 0)


@pytest.mark.parametrize("name", NAMES)
def test_all_outputs_in_float32(name: str) -> None:
    """Gradients of the same weights in float64 are within the bounds in float32."""
    network, x = small(name, outputs=True, dtype=torch.float32)
    for radius in (0.0, 1e-4, 0.02):
        ratio = check(rj.Problem(network, rj.LpBall(x, radius)), NEVER)
        assert radius > 0 or ratio < 1.01


@pytest.mark.parametrize("name", NAMES)
def test_noises_are_worth_their_time(name: str) -> None:
    network, x = small(name)
    problem = rj.Problem(network, rj.LpBall(x, 1e-4))
    with_noises, without = check(problem, NEVER), check(problem, Deadline.after(0.0))
    assert with_noises < 1.2
    assert with_noises <= without


@pytest.mark.parametrize(
    ("arithmetic", "norms"), [(rj.Fast(), (1, 2, inf)), (rj.Rigorous(), (inf,))], ids=["fast", "rigorous"]
)
def test_norms_of_all_outputs_of_a_batch(arithmetic: rj.Fast | rj.Rigorous, norms: tuple[float, ...]) -> None:
    """The norm method takes single steps wherever there are any; the second sample is bounded as if it were alone."""
    network, x = small("ViT, 2 blocks", outputs=True)
    region = rj.LpBall(torch.cat([0.9 * x, x]), torch.tensor([2e-4, 1e-3], dtype=x.dtype))
    for q in norms:
        found = rj.lipschitz(
            network, region, q=q, method=rj.LinearNetworkNorm(), arithmetic=arithmetic, search=rj.Search(work=0)
        )
        assert bool((found.lower <= found.upper).all())
        assert float(found.upper[0]) < (1.5 if q == inf else 3) * float(found.lower[0])
    alone = lengths_by_steps(rj.Problem(network, rj.LpBall(x, 1e-3), arithmetic=arithmetic), NEVER)
    assert alone is not None
    assert float(found.upper[1]) <= float(alone.max()) * (1 + 1e-9)


def test_few_neurons_are_noises_as_well() -> None:
    """Neither way is better everywhere; where many neurons would take long, steps do without them."""
    network, x = small("encoder layer")
    problem = rj.Problem(network, rj.LpBall(x, 1e-3), pre=rj.IBP())
    by_steps, by_neurons = lengths_by_steps(problem, NEVER), lengths_of(Gradients(problem).state, NEVER)
    assert by_steps is not None
    assert by_neurons is not None
    found = rj.LinearNetworkNorm().rows(Gradients(problem), inf)
    assert float(found) == min(float(by_steps), float(by_neurons.rows))


def near_examples(dtype: torch.dtype, seed: int) -> list[tuple[AbstractNearLinear, list[Tensor]]]:
    """Functions near linear maps, not those at the centre, and centres of what they read."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    found: list[tuple[AbstractNearLinear, list[Tensor]]] = []
    for module in (nn.GELU(), nn.ReLU()):
        layers = nn.Sequential(nn.Linear(1, 1), module, nn.Linear(1, 1)).double()
        activation, z = rj.load(layers, torch.zeros(1, 1, dtype=torch.float64)).stages[0].activation, random(7)
        found.append((Activated.at(activation, z + random(7) / 50), [z]))
    a, b = random(2, 3, 4), random(2, 5, 4)
    found.append((Multiplied(a + random(2, 3, 4) / 50, b + random(2, 5, 4) / 50), [a, b]))
    for function in (SoftmaxRows(), NormalisedRows(1e-5, True), NormalisedRows(0.1, False)):
        z = random(3, 6)
        found.append((OfRows.at(function, z + random(3, 6) / 50), [z]))
        if isinstance(function, NormalisedRows):
            measured = Normalised.at(function, z + random(3, 6) / 50)
            probes = torch.stack([measured.probes[:, 0] / 2, measured.probes[:, 1]], 1)
            found += [(measured, [z]), (replace(measured, probes=probes), [z])]
    return found


def with_measures(near: AbstractNearLinear, read: list[Near], away: list[Tensor], ways: list[Tensor]) -> list[Near]:
    """What is read, where what measures of rows give is as large as at the samples (S, rows, n), and no larger."""
    if near.measures is None:
        return read
    found = [torch.einsum("rpj,Srj->Srp", near.measures.double(), t).abs().amax(0) for t in (away[0], ways[0])]
    half, tangent = ((1 + 1e-6) * t.to(near.measures) for t in found)
    return [*read, Near(torch.zeros_like(half), half, tangent)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_functions_are_as_far_from_their_linear_maps_as_they_say(dtype: torch.dtype, radius: float, seed: int) -> None:
    """Values and derivatives at random points and corners of the box, in float64, without a tolerance in float32."""
    slack = 1e-13 if dtype == torch.float64 else 1e-30
    generator = torch.Generator().manual_seed(seed)
    for near, centres in near_examples(dtype, seed):
        sizes = [radius * torch.rand(c.shape, generator=generator, dtype=torch.float64).to(dtype) for c in centres]
        spans = [torch.rand(c.shape, generator=generator, dtype=torch.float64).to(dtype) for c in centres]
        read = [Near(c, h, t) for c, h, t in zip(centres, sizes, spans, strict=True)]
        away, ways = ([samples_of(t, generator, corners=i == 1) for t in most] for i, most in enumerate((sizes, spans)))
        off = near.off(with_measures(near, read, away, ways), rj.Rigorous())
        middle, error = off.centre.mid.double(), torch.zeros(()) if off.centre.rad is None else off.centre.rad.double()
        for i in range(_SAMPLES):
            moved, way = [t[i] for t in away], [t[i] for t in ways]
            at = tuple(c.double() + d for c, d in zip(centres, moved, strict=True))
            value, along = torch.autograd.functional.jvp(partial(wide_value, near), at, tuple(way))
            left = (value - middle - wide_map(near, moved)).abs()
            assert bool((left <= off.value.double() + error + slack).all())
            assert bool(((along - wide_map(near, way)).abs() <= off.tangent.double() + slack).all())


_SAMPLES = 60


def samples_of(most: Tensor, generator: torch.Generator, corners: bool) -> Tensor:
    """Tensors (S, *shape) of at most these sizes, half or all of them at corners, in float64."""
    found = torch.rand(_SAMPLES, *most.shape, generator=generator, dtype=torch.float64) * 2 - 1
    few = 0 if corners else _SAMPLES // 2
    return torch.cat([found[:few], found[few:].sign()]) * most.double()


def test_bounds_of_normalised_rows_use_what_measures_give() -> None:
    """They are far less than those by all entries of the Jacobians, where rows move little along the values."""
    z = torch.randn(4, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = Normalised.at(NormalisedRows(1e-5, True), z)
    rows = Near(z, torch.full_like(z, 1e-3), torch.ones_like(z))
    sizes = torch.full((4, 2), 1e-3 * 48**0.5, dtype=z.dtype)
    off, plain = (
        near.off([rows, Near(0 * sizes, sizes, 1e3 * sizes)], rj.Rigorous()),
        near.plain.off([rows], rj.Rigorous()),
    )
    assert float(off.tangent.max()) < 0.6 * float(plain.tangent.max())
    assert float(off.value.max()) < 0.6 * float(plain.value.max())


def wide_value(near: AbstractNearLinear, *z: Tensor) -> Tensor:
    """The function itself, in PyTorch."""
    match near:
        case Activated():
            return nn.functional.gelu(z[0]) if near.activation.name == "gelu" else nn.functional.relu(z[0])
        case Multiplied():
            return z[0] @ z[1].mT
        case Normalised():
            return wide_value(near.plain, *z)
        case OfRows(function=SoftmaxRows()):
            return z[0].softmax(-1)
        case OfRows(function=NormalisedRows(eps=eps, centred=True)):
            return nn.functional.layer_norm(z[0], z[0].shape[-1:], eps=eps)
        case _:
            return nn.functional.rms_norm(z[0], z[0].shape[-1:], eps=0.1)


def wide_map(near: AbstractNearLinear, vectors: list[Tensor]) -> Tensor:
    """The linear map as it is defined, in float64."""
    match near:
        case Activated():
            return near.slope.double() * vectors[0]
        case Multiplied():
            return vectors[0] @ near.second.double().mT + near.first.double() @ vectors[1].mT
        case Normalised():
            return wide_map(near.plain, vectors)
        case OfRows():
            return torch.einsum("rij,rj->ri", near.matrices.double(), vectors[0])
        case _:
            raise TypeError(near)


@pytest.mark.parametrize("seed", range(2))
def test_maps_of_vectors_and_of_sizes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for near, centres in near_examples(torch.float64, seed):
        vectors = [torch.randn(3, *c.shape, generator=generator, dtype=torch.float64) for c in centres]
        found = near.carried(vectors)
        sizes = near.absolute([v[:2].abs() for v in vectors], rj.Rigorous()).upper()
        for i in range(3):
            torch.testing.assert_close(found[i], wide_map(near, [v[i] for v in vectors]))
        assert bool((found[:2].abs() <= sizes).all())
        for alone in range(len(centres)):
            some = [v if i == alone else None for i, v in enumerate(vectors)]
            zeroed = [v if i == alone else torch.zeros_like(v) for i, v in enumerate(vectors)]
            torch.testing.assert_close(near.carried(some), near.carried(zeroed))


@pytest.mark.parametrize("name", NAMES)
def test_parts_push_as_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of any entries of a node, through what these reach alone; what is left out is 0."""
    monkeypatch.setattr(linear_steps, "_FEW", 2)
    network, x = small(name)
    steps = Steps.of(network)
    assert steps is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        linear = LinearSteps.at(steps, x[0])
        for node in (0, *linear.near):
            count = prod(linear.shape(node))
            random = torch.randperm(count, generator=generator)[: max(1, count // 5)].sort().values
            for part in (Part(linear, node, random), *linear.parts(node)[:2]):
                index = part.index
                units = torch.zeros(len(index), count, dtype=x.dtype).scatter_(1, index.unsqueeze(1), 1.0)
                whole = dict(linear.pushed(node, units.reshape(len(index), *linear.shape(node))))
                for place, at, some in part.pushed(torch.eye(len(index), dtype=x.dtype)):
                    left = whole.pop(place).flatten(1).clone()
                    assert len(at.unique()) == len(at)
                    assert linear.size(place) == left.shape[1]
                    torch.testing.assert_close(left[:, at], some)
                    left[:, at] = 0
                    assert not bool(left.any())
                assert not any(bool(t.any()) for t in whole.values())


@pytest.mark.parametrize("name", NAMES[:2])
def test_lots_give_the_same_bounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small(name)
    problem = rj.Problem(network, rj.LpBall(x, 1e-3))
    plain = lengths_by_steps(problem, NEVER)
    monkeypatch.setattr(linear_steps, "_FEW", 2)
    monkeypatch.setattr(linear_steps, "_LITTLE", 1)
    steps = Steps.of(network)
    assert steps is not None
    linear = LinearSteps.at(steps, x[0])
    assert any(linear.parts(k) for k in linear.near)
    lots = lengths_by_steps(problem, NEVER)
    assert plain is not None
    assert lots is not None
    torch.testing.assert_close(plain, lots, rtol=1e-9, atol=0.0)
    check(problem, Deadline.after(0.05))


def test_where_nothing_is_known() -> None:
    """Unbounded regions have no bound, nor networks without single steps; none is claimed."""
    network, x = small("ViT, 2 blocks")
    assert lengths_by_steps(rj.Problem(network, rj.LpBall(x, inf)), NEVER) is None
    plain = rj.load(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), torch.zeros(1, 2))
    assert lengths_by_steps(rj.Problem(plain, rj.LpBall(torch.zeros(1, 2), 0.1)), NEVER) is None


@pytest.mark.parametrize("room", [True, False])
def test_the_default_takes_it_where_forms_have_no_room(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small("ViT, 2 blocks")
    problem = rj.Problem(network, rj.LpBall(x, 1e-4), planner=rj.Planner(Thresholds(watched_work=1)), pre=rj.IBP())
    assert GradientForms().has_room_for_steps(problem)
    monkeypatch.setattr(GradientForms, "has_room_for_steps", lambda *_: room)
    question = Question(lambda method, known: method.norm(known, inf, inf), (inf, inf))
    work = Work(question, Gradients(problem), Deadline.after(1e6), problem)
    titles: list[str] = []
    open_steps(work, lambda report: titles.append(report.step))
    assert titles == ["gradient forms" if room else "linear network"]
    true = float(point_jacobian(network, points_of(problem)).abs().flatten(2).sum(2).max())
    assert work.upper is not None
    assert true * (1 - 1e-9) <= float(work.upper.max()) <= (inf if room else 1.2 * true)


def test_few_noises_are_no_room() -> None:
    network, x = small("ViT, 2 blocks")
    problem = rj.Problem(network, rj.LpBall(x, 1e-4))
    assert not GradientForms(short_noises=100).has_room_for_steps(problem)


def test_what_is_known_only_by_its_size_is_measured_in_full() -> None:
    """A rest of 1 at each entry of a row moves what is measured by up to the sum of the sizes of the measures."""
    network, x = small("encoder layer")
    steps = Steps.of(network)
    assert steps is not None
    linear, count = LinearSteps.at(steps, x[0]), 0
    own = step_lengths._Pass(linear, rj.Rigorous(), x[0], torch.zeros_like(x[0]), NEVER)
    for k, near in linear.near.items():
        if near.measures is not None:
            ones = torch.ones(2, len(near.measures), near.measures.shape[-1], dtype=x.dtype)
            arrived = Arrived(ones[0], torch.zeros_like(ones), ones)
            found, count = own._measured((k, 1), near.measures, arrived), count + 1
            assert bool((found.rest >= near.measures.abs().sum(-1) * (1 - 1e-12)).all())
    assert count > 0
