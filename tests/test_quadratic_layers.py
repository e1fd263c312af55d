"""The P-chain along layers: what it states holds for all slopes of convolutions, pools and sorts, also in rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.arithmetic import least_eigenvalue
from recurjac.jacobian import Gradients
from recurjac.network import Network
from recurjac.norms import quadratic
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic import LayerMultipliers, Layers, Reached, improved, layer_multipliers, layers_of, reach_layers
from recurjac.quadratic.roots import root_above
from tests.conv_networks import CONVOLUTIONAL
from tests.marks import SEEDS, every_seed, in_turn

NETS = Path(__file__).parents[2] / "shared" / "nets"
QUIET = rj.Search(work=0)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).reshape(-1, 2, 3).sort(-1).values.flatten(1))  # type: ignore[no-any-return]


LAYERED: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(-0.3), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
    "narrowing": lambda: nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)),
    "convolution": CONVOLUTIONAL["plain"],
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.LazyLinear(3),
    ),
    "pooled before": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(3)
    ),
    "averaged": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    ),
    "sorted": Sorted,
}  # fmt: skip


def loaded(name: str, seed: int, scale: float = 1.0) -> Network:
    torch.manual_seed(seed)
    module = LAYERED[name]().double().eval()
    shape = (1, 4) if name in ("dense", "sorted") else (1, 6) if name == "narrowing" else (1, 2, 4, 4)
    module(torch.zeros(shape, dtype=torch.float64))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    return rj.load(module, torch.zeros(shape, dtype=torch.float64))


def chain_of(network: Network, seed: int, radius: float) -> ChainRule:
    x = torch.randn(network.input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Gradients(rj.Problem(network, rj.LpBall(x, radius, 2))).chain


def jacobian(chain: ChainRule, generator: torch.Generator, corners: bool) -> Tensor:
    """For random slopes, at the ends of their intervals or between them: (K, inputs), computed in plain numbers."""
    n = torch.Size(chain.shapes[0]).numel()
    found = [torch.eye(n, dtype=torch.float64).reshape(n, *chain.shapes[0])]
    for k in range(1, chain.end + 1):
        total = torch.zeros(n, *chain.shapes[k], dtype=torch.float64)
        for e in chain.edges[k]:
            total = total + e.operator.push(rj.Fast().exact(found[e.source])).mid
        slopes = chain.slopes[k]
        if slopes is not None:
            share = torch.rand(slopes.lower.shape[1:], generator=generator, dtype=torch.float64)
            share = share.round() if corners else share
            total = total * (slopes.lower[0] + share * (slopes.upper[0] - slopes.lower[0]))
        found.append(total)
    return found[-1].flatten(1).mT


def layered(network: Network, seed: int, radius: float) -> tuple[ChainRule, Layers]:
    chain = chain_of(network, seed, radius)
    layers = layers_of(chain)
    assert layers is not None
    return chain, layers


def reached(layers: Layers, steps: int, euclidean: bool = True) -> tuple[Reached, Tensor]:
    radius, aim = torch.ones(layers.inputs, dtype=torch.float64), quadratic._EACH
    begin = LayerMultipliers.first(layers, radius, euclidean)
    best = improved(layers, begin, radius, aim.loss, aim.weigh, steps)
    with torch.no_grad():
        found = reach_layers(layers, best.start(radius), best)
    assert found is not None
    return found, best.start(radius)


@pytest.mark.parametrize(("name", "steps", "seed"), in_turn(list(LAYERED), [0, 4], SEEDS))
def test_the_matrix_holds_for_all_slopes(name: str, steps: int, seed: int) -> None:
    """growth G - J P Jᵀ has no eigenvalue below the rounding of J, and the rest is rounding alone."""
    generator = torch.Generator().manual_seed(seed)
    for radius in (inf, 0.3):
        chain, layers = layered(loaded(name, seed), seed, radius)
        found, start = reached(layers, steps, euclidean=seed % 2 == 0)
        size = float(found.gram.mid.abs().max())
        assert 1 <= float(found.growth) < 1 + 1e-10
        assert 0 <= float(found.rest.max()) <= 1e-10 * size**0.5 + 1e-290
        for corners in (True, False) * 4:
            true = jacobian(chain, generator, corners)
            gap = found.gram.mid * found.growth - true @ torch.diag(start) @ true.mT
            assert float(least_eigenvalue(rj.Rigorous().exact(gap))) >= -1e-11 * size


@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.parametrize("aim", [*quadratic.AIMS.values(), quadratic._EACH], ids=lambda aim: aim.loss.__name__)
def test_a_search_ends_near_the_best_multipliers(aim: quadratic.Aim, name: str) -> None:
    """It gains, and from where it ends hardly anything is gained by other multipliers nearby (sorts lie at a limit)."""
    seed = 1
    layers = layered(loaded(name, seed), seed, inf)[1].plain(torch.float64)
    radius, generator = torch.ones(layers.inputs, dtype=torch.float64), torch.Generator().manual_seed(seed)
    begin = LayerMultipliers.first(layers, radius, True)
    best = improved(layers, begin, radius, aim.loss, aim.weigh, 200)
    least = layer_multipliers._value(layers, best, radius, aim.loss)
    assert least < layer_multipliers._value(layers, begin, radius, aim.loss) - 0.02
    units = len(layers.rows.mid) if aim is quadratic._EACH else 1
    for _ in range(0 if name == "sorted" else 6):
        other = [i * (0.3 * torch.randn(i.shape, generator=generator, dtype=i.dtype)).exp() for i in best.inverses]
        near = replace(best, inverses=tuple(other))
        assert layer_multipliers._value(layers, near, radius, aim.loss) > least - 0.05 * units


@every_seed
@pytest.mark.parametrize("name", LAYERED)
def test_known_slopes_lose_nothing(name: str, seed: int) -> None:
    chain, layers = layered(loaded(name, seed), seed, 0.0)
    if any(s is not None and not bool(s.is_point.all()) for s in chain.slopes):
        pytest.skip("the centre is at a kink")
    found, _ = reached(layers, 0)
    true = jacobian(chain, torch.Generator(), True)
    assert torch.allclose(found.gram.mid, true @ true.mT, rtol=1e-9, atol=1e-12)


@every_seed
@pytest.mark.parametrize("name", ["dense", "convolution"])
def test_along_layers_and_over_whole_nodes_agree(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no window joins several neurons, both are the same recursion; only the start of the search differs."""
    network = loaded(name, seed)
    region = rj.LpBall(torch.zeros(network.input_shape), inf, 2)
    bounds = []
    for narrow in (0, 1024):
        monkeypatch.setattr(quadratic, "_NARROW", narrow)
        bounds.append(float(rj.lipschitz(network, region, p=2, q=2, method=rj.QuadraticNorm(0), search=QUIET).upper))
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6)


@every_seed
@pytest.mark.parametrize("scale", [1e-60, 1e-3, 1.0, 1e60])
def test_bounds_scale_with_the_weights(seed: int, scale: float) -> None:
    """Numbers far from 1 are rescaled, or end in an infinite bound, never in one that is too low."""
    small, _ = reached(layered(loaded("pooled", seed), seed, inf)[1], 0)
    network = loaded("pooled", seed, scale)
    layers = layered(network, seed, inf)[1]
    radius = torch.ones(layers.inputs, dtype=torch.float64)
    best = LayerMultipliers.first(layers, radius, True)
    with torch.no_grad():
        found = reach_layers(layers, best.start(radius), best)
    if found is not None:
        per = found.gram.map(torch.diagonal).upper().sqrt() + found.rest
        assert bool((per >= small.gram.mid.diagonal().sqrt() * scale**3 * (1 - 1e-6)).all())


@every_seed
def test_norms_of_pools_and_sorts_are_at_most_the_product(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic, "_NARROW", 0)
    for name in ("pooled", "sorted"):
        network = loaded(name, seed)
        for radius in (0.1, inf):
            region = rj.LpBall(torch.zeros(network.input_shape), radius, 2)
            for p, q in ((2, 2), (inf, 1)):
                found, product = (
                    float(rj.lipschitz(network, region, p=p, q=q, method=m, search=QUIET).upper.detach())
                    for m in (rj.QuadraticNorm(2), rj.ProductOfNorms())
                )
                assert found <= product


@every_seed
@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_roots_are_above(seed: int, shape: tuple[int, ...]) -> None:
    """F Fᵀ minus every symmetric matrix of the ball has no negative eigenvalue, also for singular ones."""
    g = torch.Generator().manual_seed(seed)
    n = shape[-1]
    root = torch.randn(*shape, 2, generator=g, dtype=torch.float64) * 10.0 ** torch.randint(-1, 2, (n, 1), generator=g)
    mid = root @ root.mT
    rad = torch.rand(mid.shape, generator=g, dtype=torch.float64) * 1e-13 * mid.abs().amin()
    found = root_above(rj.Rigorous().ball(mid, torch.maximum(rad, rad.mT)))
    assert found is not None
    scale = 1 / mid.diagonal(dim1=-2, dim2=-1).sqrt()
    for sign in (-1, 0, 1):
        gap = (found @ found.mT - mid - sign * torch.maximum(rad, rad.mT)) * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        assert bool((torch.linalg.eigvalsh(gap) >= -1e-15).all())
        assert bool((gap.abs() < 1e-9).all())
    zero = root_above(rj.Rigorous().exact(torch.zeros(3, 3, dtype=torch.float64)))
    assert zero is not None
    assert float(zero.abs().max()) < 1e-6


def test_what_is_no_chain_of_layers() -> None:
    """A shortcut around a convolution, and windows that overlap into one large group."""
    torch.manual_seed(0)
    for name in ("residual", "concatenated"):
        network = rj.load(CONVOLUTIONAL[name]().double().eval(), torch.zeros(1, 2, 4, 4, dtype=torch.float64))
        assert layers_of(chain_of(network, 0, inf)) is None
    overlapping = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(3, 1, 1), nn.Flatten(), nn.Linear(64, 2))
    network = rj.load(overlapping.double(), torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    assert layers_of(chain_of(network, 0, inf)) is None


def test_slopes_without_bound_prove_nothing() -> None:
    layers = [(torch.ones(3, 2), None), (torch.ones(2, 3), None)]
    chain = chain_of(rj.load(layers, activation="square"), 0, inf)
    assert layers_of(chain) is None
    assert layers_of(replace(chain, slopes=tuple(None for _ in chain.slopes))) is not None


@pytest.mark.slow
@pytest.mark.skipif(not NETS.is_dir(), reason="the networks are not at hand")
@pytest.mark.parametrize("name", ["mnist_cnn_maxpool_bn", "cifar_base_kw"])
def test_global_constants_of_image_networks(name: str) -> None:
    """At most half of the product of spectral norms, and above an attained gain."""
    network = rj.load(NETS / f"{name}.onnx")
    region = rj.LpBall(torch.zeros(network.input_shape), inf, 2)
    found = rj.lipschitz(network, region, p=2, q=2, method=rj.QuadraticNorm(), search=rj.Search(work=10**9))
    product = rj.lipschitz(network, region, p=2, q=2, method=rj.ProductOfNorms(), search=QUIET)
    assert found.rigorous
    assert float(found.lower) <= float(found.upper) <= 0.5 * float(product.upper)
