"""Loading: the normal form computes what the original computes, follows it where it says so, and refuses the rest."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import ELU, AbstractActivation, LeakyReLU, PReLU, ReLU, Softplus
from recurjac.network import Network
from tests.helpers import refused

NETS = Path(__file__).parents[2] / "shared" / "nets"
L, T = nn.Linear, torch.tensor


class Fn(nn.Module):
    """The function f(parts, x)."""

    def __init__(self, f: Callable[[Any, Tensor], Any], *parts: nn.Module) -> None:
        super().__init__()
        self.f, self.parts = f, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.f(self.parts, x)


class Tied(nn.Module):
    """Two layers that share a weight, one layer under two names, buffers of every kind."""

    mean: Tensor
    count: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = L(4, 4), L(4, 4)
        self.b.weight, self.c = self.a.weight, self.a
        self.drop = nn.Dropout(0.9)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("count", T(3))
        self.register_buffer("shift", torch.randn(1, 4), persistent=False)

    def forward(self, x: Tensor) -> Any:
        h = self.drop(torch.relu(self.a(x - self.mean)))
        return self.c(F.dropout(torch.relu(self.b(h)), training=self.training)) * self.count + self.shift


def _doubling(p: Any, x: Tensor) -> Tensor:
    """Sums of sums: 2^8 paths from input to output."""
    for _ in range(8):
        x = x + p[0](x)
    return x


def _in_place(p: Any, x: Tensor) -> Tensor:
    h = F.relu(p[0](x)).add_(x)
    h += p[1](h)
    return h.sub_(x)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "flatten": (lambda: nn.Sequential(nn.Flatten(), L(4, 5), nn.ReLU(), nn.Dropout(), L(5, 2)), (2, 2)),
    "view": (lambda: Fn(lambda p, x: p[0](x.view(x.shape[0], -1)), L(4, 2)), (2, 2)),
    "reshape": (lambda: Fn(lambda p, x: p[0](x.reshape(-1, 4)).reshape(x.size(0), 2, 1), L(4, 2)), (2, 2)),
    "shaped-relu": (lambda: Fn(lambda p, x: p[0](torch.flatten(F.relu(x - 0.5), 1)), L(4, 2)), (2, 2)),
    "residual": (lambda: Fn(lambda p, x: p[1](F.relu(p[0](x)) + x) + x, L(4, 4), L(4, 4)), (4,)),
    "skip-only": (lambda: Fn(lambda p, x: x + F.relu(p[0](x)) - x, L(4, 4)), (4,)),
    "in-place": (lambda: Fn(_in_place, L(4, 4), L(4, 4)), (4,)),
    "doubling": (lambda: Fn(_doubling, L(4, 4)), (4,)),
    "numbers": (lambda: Fn(lambda p, x: -(1.5 - p[0]((x - 0.5) * 3)) + 2 * x - x * 0.25, L(4, 4)), (4,)),
    "alpha": (lambda: Fn(lambda p, x: torch.add(T([1.0]), torch.sub(x, p[0](x), alpha=3), alpha=2), L(4, 4)), (4,)),
    "tensors": (lambda: Fn(lambda p, x: T([1.0, 2, 3, 4]) * p[0](x - T([[0.5]])) - T(2.0), L(4, 4)), (4,)),
    "tensor-minus": (lambda: Fn(lambda p, x: T([1.0, 2, 3, 4]) - p[0](x), L(4, 4)), (4,)),
    "prelu": (lambda: nn.Sequential(L(4, 5), nn.PReLU(), L(5, 5), nn.PReLU(5), L(5, 2)), (4,)),
    "prelu-channels": (lambda: nn.Sequential(nn.PReLU(2), nn.Flatten(), L(6, 2)), (2, 3)),
    "in-place-activations": (
        lambda: nn.Sequential(L(4, 5), nn.ReLU(True), L(5, 5), nn.LeakyReLU(0.1, True), nn.ELU(1.2, True)), (4,)
    ),
    "no-bias": (lambda: nn.Sequential(L(4, 5, bias=False), nn.ReLU(), L(5, 2, bias=False)), (4,)),
    "last-activation": (lambda: nn.Sequential(L(4, 2), nn.ReLU()), (4,)),
    "no-activation": (lambda: nn.Sequential(L(4, 3), L(3, 2)), (4,)),
    "matmul": (lambda: Fn(lambda p, x: F.relu(x @ p[0].weight.T + p[0].bias) @ p[0].weight.t(), L(4, 4)), (4,)),
    "addmm": (lambda: Fn(lambda p, x: torch.addmm(p[0].bias, x, p[0].weight.permute(1, 0)), L(4, 3)), (4,)),
    "slices": (lambda: Fn(lambda p, x: F.linear(x, p[0].weight[1:3], p[0].bias[:2]), L(4, 4)), (4,)),
    "computed": (lambda: Fn(lambda p, x: F.linear(x, p[0].weight * 0.3, p[0].weight.sum(1)), L(4, 4)), (4,)),
    "tied": (Tied, (4,)),
    "reused": (lambda: Fn(lambda p, x: p[0](F.relu(p[0](F.relu(p[0](x))))), L(4, 4)), (4,)),
    "identity": (nn.Identity, (2, 3)),
    "hanging window": (lambda: nn.MaxPool2d((3, 1), 2, ceil_mode=True), (1, 2, 5)),
    "input-ignored": (lambda: Fn(lambda p, x: p[0].bias.expand(x.shape[0], -1), L(4, 3)), (4,)),
    "input-cancelled": (lambda: Fn(lambda p, x: p[0](x * 0), L(4, 3)), (4,)),
    "constant": (lambda: Fn(lambda _, x: torch.full((x.shape[0], 3), 0.5)), (4,)),
}  # fmt: skip
CONSTANT = ("input-ignored", "input-cancelled")  # "constant" always returns as many rows as its example had


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(len(name))
    make, shape = MODULES[name]
    return make().to(dtype), shape


def agree(network: Network, module: nn.Module) -> None:
    """The network returns what the module does in eval mode and float64."""
    wide = copy.deepcopy(module).double().eval()
    x = torch.randn(15, *network.input_shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 4
    ours, theirs = network(x).detach(), wide(x).detach()
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-9 * float(theirs.abs().max())


def same(a: Network, b: Network) -> bool:
    x = torch.randn(6, *a.input_shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    form = [
        [(t.shape, t.activation.name, [(e.source, type(e.operator)) for e in t.edges]) for t in n.stages]
        for n in (a, b)
    ]
    return form[0] == form[1] and torch.equal(a(x), b(x))


# Modules


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", [n for n in MODULES if n != "constant"])
def test_a_module_computes_the_same(name: str, dtype: torch.dtype) -> None:
    module, shape = build(name, dtype)
    module.train()
    kept = {key: (value, value.clone()) for key, value in module.named_parameters(remove_duplicate=False)}
    one, three = rj.load(module, torch.ones(1, *shape)), rj.load(module, torch.randn(3, *shape))
    assert all(part.training for part in module.modules())
    for key, value in module.named_parameters(remove_duplicate=False):
        assert value is kept[key][0]
        assert torch.equal(value, kept[key][1])
    assert (one.input_shape, max(len(s.edges) for s in one.stages) <= 16) == (shape, True)
    assert same(one, three)
    agree(one, module)
    narrow = rj.load(module, torch.ones(1, *shape), dtype=torch.float32) if dtype == torch.float32 else one.to(dtype)
    x = torch.rand(4, *shape, dtype=dtype)
    torch.testing.assert_close(narrow(x), copy.deepcopy(module).eval()(x), rtol=1e-4, atol=1e-4)


def test_mixed_training_modes_are_restored() -> None:
    module = nn.Sequential(L(4, 4), nn.Dropout(), L(4, 2)).train()
    module[1].eval()
    rj.load(module, torch.ones(1, 4))
    assert [m.training for m in module] == [True, False, True]
    with pytest.raises(rj.InvalidNetwork):
        rj.load(module, torch.ones(1, 5))
    assert [m.training for m in module] == [True, False, True]


def test_examples_of_any_kind() -> None:
    module = nn.Sequential(L(3, 2))
    networks = [
        rj.load(module, e) for e in ([[1, 2, 3]], np.ones(3), torch.ones(5, 3, dtype=torch.int64), T([1.0, 2, 3]))
    ]
    assert all(same(networks[0], n) for n in networks)


@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_has_no_slope(name: str) -> None:
    module, shape = build(name)
    network = rj.load(module, torch.ones(2, *shape))
    region = rj.LpBall(torch.zeros(shape), rj.inf)
    assert not rj.jacobian_bounds(network, region).upper.any()
    assert not rj.lipschitz(network, region, search=rj.Search(work=0)).upper.any()


def test_an_affine_module_is_exact() -> None:
    module, _ = build("no-activation", torch.float64)
    bounds = rj.jacobian_bounds(rj.load(module, torch.ones(1, 4)), rj.LpBall(torch.zeros(4), rj.inf))
    exact = module[1].weight @ module[0].weight  # type: ignore[index]
    torch.testing.assert_close(bounds.lower[0], exact, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(bounds.upper[0], exact, rtol=1e-14, atol=1e-14)


# Live parameters


def _trained(dtype: torch.dtype) -> tuple[nn.Sequential, Network]:
    torch.manual_seed(0)
    module = nn.Sequential(L(3, 6), nn.PReLU(6), L(6, 2))
    return module, rj.load(module, torch.ones(1, 3), dtype=dtype)


def _step(module: nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p), alpha=0.5)


def test_in_its_own_dtype_the_network_follows_the_module() -> None:
    module, network = _trained(torch.float32)
    x, region = torch.rand(4, 3), rj.LpBall(torch.zeros(3), 0.3)
    before = rj.jacobian_bounds(network, region)
    _step(module)
    torch.testing.assert_close(network(x), module(x), rtol=1e-5, atol=1e-5)
    after, fresh = (rj.jacobian_bounds(n, region) for n in (network, rj.load(module, x, dtype=torch.float32)))
    assert torch.equal(after.lower, fresh.lower)
    assert torch.equal(after.upper, fresh.upper)
    assert not torch.equal(after.upper, before.upper)


def test_in_another_dtype_it_keeps_the_values() -> None:
    module, network = _trained(torch.float64)
    x = torch.rand(4, 3, dtype=torch.float64)
    before = network(x)
    _step(module)
    assert torch.equal(network(x), before)
    with pytest.raises(rj.InvalidNetwork, match="changed after"):
        rj.jacobian_bounds(network, rj.LpBall(torch.zeros(3), 0.3))


def test_bounds_have_gradients_in_the_module_s_own_dtype() -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        module, _ = _trained(torch.float32)
        module.to(dtype)
        network, region = rj.load(module, torch.ones(1, 3), dtype=dtype), rj.LpBall(torch.zeros(3), 0.3)
        rj.lipschitz(network, region, search=rj.Search(work=0)).upper.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in module.parameters() if p.dim() == 2)
        found.append(next(module.parameters()).grad)
    assert found[0] is not None
    assert found[1] is not None
    assert bool(found[0].any())
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-3, atol=1e-5)


def test_in_another_dtype_nothing_has_gradients() -> None:
    """No bound keeps a graph of casts, and results are plain values."""
    for made, dtype in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.PReLU(2), nn.Flatten(), L(8, 2)).to(
            torch.float32
        )
        network = rj.load(module.to(made), torch.ones(1, 1, 3, 3), dtype=dtype)
        assert not any(t.requires_grad for t in network.tensors())
        region = rj.LpBall(torch.zeros(1, 3, 3), 0.1)
        bounds = rj.jacobian_bounds(network, region)
        for result in (
            bounds,
            rj.lipschitz(network, region, search=rj.Search(work=0)),
            rj.preactivation_bounds(network, region),
            rj.certified_radius(network, torch.zeros(1, 3, 3)),
        ):
            copied = copy.deepcopy(result)
            assert type(copied) is type(result)
            if is_dataclass(result):
                asdict(result)
        assert not bounds.lower.requires_grad
        assert bounds.lower.numpy().shape == (1, 2, 1, 3, 3)
        own = rj.load(module, torch.ones(1, 1, 3, 3), dtype=made)
        assert rj.jacobian_bounds(own, region).lower.requires_grad
        assert not rj.jacobian_bounds(own.detached(), region).lower.requires_grad


def test_weight_lists_are_live_in_their_own_dtype() -> None:
    for made in (torch.float32, torch.float64):
        layers = [(torch.ones(2, 3, dtype=made, requires_grad=True), None), (torch.ones(1, 2, dtype=made), None)]
        for dtype in (torch.float32, torch.float64):
            network = rj.load(layers, activation="relu", dtype=dtype)
            bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(3), 0.1))
            assert bounds.upper.requires_grad == (made == dtype)


def test_where_to() -> None:
    module, network = _trained(torch.float32)
    for wide in (
        network.to(torch.float64),
        network.to("cpu", torch.float64),
        network.to(torch.float64, "cpu"),
        network.to(dtype=torch.float64),
        network.to(torch.device("cpu"), dtype=torch.float64),
    ):
        assert (wide.dtype, wide.device) == (torch.float64, torch.device("cpu"))
        assert not any(t.requires_grad for t in wide.tensors())
    for same_ in (network.to(), network.to(None), network.to("cpu"), network.to(torch.float32, None)):
        assert {id(t) for t in same_.tensors()} >= {id(module[0].weight), id(module[2].weight)}
    requests: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
        (lambda: network.to(torch.float32, torch.float64), ("torch.float32, torch.float64", "at most one")),
        (lambda: network.to("nowhere"), ("'nowhere'", "neither a dtype nor a device")),
        (lambda: network.to(kind="cpu"), ("'kind'",)),
    ]
    for request, words in requests:
        refused(request, rj.InvalidRequest, words)


def test_copies_notice_biases_that_change() -> None:
    """Biases are spread over a layer's places: no tensor of the network is the parameter itself."""
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), L(8, 2))
    for frozen in (False, True):
        module.requires_grad_(not frozen)
        wide = rj.load(module, torch.ones(1, 1, 3, 3), dtype=torch.float32).to(torch.float64)
        with torch.no_grad():
            module[0].bias.add_(1.0)  # type: ignore[operator]
        with pytest.raises(rj.InvalidNetwork, match="changed after"):
            rj.jacobian_bounds(wide, rj.LpBall(torch.zeros(1, 3, 3), 0.1))


def test_float32_of_other_numbers_is_refused() -> None:
    module, shape = build("flatten", torch.float64)
    with torch.no_grad():
        module[1].weight.fill_(0.1)  # type: ignore[index]
    for source, example in ((module, torch.ones(1, *shape)), ([(np.full((2, 2), 0.1), None)], None)):
        with pytest.raises(rj.InvalidNetwork, match=r"not torch\.float32 numbers"):
            rj.load(source, example, dtype=torch.float32)
    exact = rj.load([(np.full((2, 2), 0.5), None)], dtype=torch.float32)
    assert exact.dtype == torch.float32


@pytest.mark.parametrize("name", ["computed", "addmm", "slices", "matmul", "tensors", "tied", "alpha", "numbers"])
def test_computed_weights_are_told_from_moved_ones(name: str) -> None:
    module, shape = build(name)
    reasons = rj.load(module, torch.ones(1, *shape)).unproved_rounding()
    assert reasons == (["some weights were computed from others in floating point"] if name == "computed" else [])


# Copies


@pytest.mark.parametrize("name", ["residual", "prelu", "tied", "computed", "slices", "doubling"])
def test_networks_are_copied_and_pickled(name: str) -> None:
    module, shape = build(name)
    network = rj.load(module, torch.ones(1, *shape), dtype=torch.float32)
    x = torch.rand(3, *shape)
    value = network(x).detach()
    twins = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]  # noqa: S301  (our own bytes)
    assert copy.copy(network) is network
    first, second = copy.deepcopy([network, network])
    assert first is second
    _step(module)
    if name not in ("computed", "slices"):
        assert not torch.equal(network(x), value)  # it is live
    for twin in twins:
        assert torch.equal(twin(x), value)
        assert repr(twin) == repr(network)
        assert not any(t.requires_grad for t in twin.tensors())
        rj.jacobian_bounds(twin, rj.LpBall(torch.zeros(shape), 0.1))


def test_a_network_that_changed_half_is_not_copied() -> None:
    module, network = _trained(torch.float64)
    _step(module)
    for request in (lambda: copy.deepcopy(network), lambda: pickle.dumps(network), lambda: network.to(torch.float32)):
        with pytest.raises(rj.InvalidNetwork, match="changed after"):
            request()


def test_a_network_is_shown_in_a_line() -> None:
    assert repr(_trained(torch.float32)[1]) == "Network((3,) → (2,), 2 stages: prelu ×1, 44 weights, float32)"
    affine = rj.load([(np.ones((1, 1)), None)])
    assert repr(affine) == "Network((1,) → (1,), 1 stage, 1 weight, float64)"
    wide = rj.load([(np.ones((40, 40)), None)] * 4, activation=["relu", "tanh", "relu"])
    assert repr(wide).endswith("4 stages: relu ×2, tanh ×1, 6 400 weights, float64)")


# Refusals


def _noisy(p: Any, x: Tensor) -> Any:
    return p[0](x) + 1e-6 * torch.randn(4)


def _branching(p: Any, x: Tensor) -> Any:
    return p[0](x) if x.sum() > 0 else x


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], type[Exception], tuple[str, ...]]] = {
    "two": (lambda p, x: (p[0](x), x), rj.UnsupportedLayer, ("2 outputs", "--output-name 0")),
    "dict": (lambda p, x: {"y": p[0](x), "z": x}, rj.UnsupportedLayer, ("'y', 'z'", "--output-name y")),
    "nothing": (lambda _, __: None, rj.UnsupportedLayer, ("not a tensor",)),
    "no batch": (lambda p, _: p[0].bias * 1, rj.UnsupportedLayer, ("constant", "(4,)", "batch")),
    "power": (lambda p, x: p[0](x) ** x, rj.UnsupportedLayer, ("aten.pow.Tensor_Tensor", "constant number")),
    "mixing": (lambda p, x: p[0](x.flatten()), rj.UnsupportedLayer, ("a tensor of shape (4,)", "batch")),
    "branching": (_branching, rj.InvalidNetwork, ("data", "(4,)")),
    "raises": (lambda _, x: x / (1 // 0), rj.InvalidNetwork, ("division or modulo", "(4,)")),
    "noise": (_noisy, rj.ConversionError, ("differ by", "random")),
    "batch size": (lambda p, x: p[0](x) * x.shape[0], rj.ConversionError, ("differ by", "size of the batch")),
    "softplus": (lambda p, x: F.softplus(p[0](x), threshold=1), rj.UnsupportedLayer, ("softplus", "threshold=1")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    f, error, words = REFUSED[name]
    with pytest.raises(error) as caught:
        rj.load(Fn(f, L(4, 4)), torch.ones(1, 4))
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    assert not [w for w in words if w not in message]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("layer", "operation", "shape"),
    [(nn.ELU(-1.0), "elu", (4,)), (nn.RMSNorm(4, eps=-1.0), "rms_norm", (4,))],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_an_unsupported_layer_is_named_with_its_place(layer: nn.Module, operation: str, shape: tuple[int, ...]) -> None:
    module = nn.Sequential(OrderedDict(first=nn.ReLU(), body=nn.Sequential(OrderedDict(odd=layer))))
    with pytest.raises(rj.UnsupportedLayer) as caught:
        rj.load(module, torch.ones(1, *shape))
    assert str(caught.value).startswith(f"aten.{operation}.")
    assert " of module body.odd is not supported" in str(caught.value)


# Weight lists


def test_a_weight_list_is_the_chain_that_it_says() -> None:
    g = np.random.default_rng(0)
    W = [g.normal(size=s) for s in ((5, 3), (4, 5), (2, 4))]
    b = [g.normal(size=5), np.zeros(4), g.normal(size=(2, 1))]
    layers = [(W[0], b[0]), (W[1], None), (W[2], b[2])]
    x = g.normal(size=(6, 3))
    h = np.maximum(x @ W[0].T + b[0], 0) @ W[1].T
    y = np.where(h > 0, h, 0.3 * h) @ W[2].T + b[2].ravel()
    slopes = torch.full((4,), 0.3, dtype=torch.float64)
    activations: list[Sequence[str | AbstractActivation]] = [["relu", LeakyReLU(0.3)], (ReLU(), PReLU(slopes))]
    for activation in activations:
        network = rj.load(layers, activation=activation)
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), y, rtol=1e-12)
    tensors = tuple((torch.from_numpy(w), None if c is None else c.tolist()) for w, c in layers)
    assert same(rj.load(layers, activation="tanh"), rj.load(tensors, activation=["tanh", "tanh"]))
    affine = rj.load([([[1, 2], [3, 4]], [5, 6])])
    assert affine(T([[1.0, 1.0]], dtype=torch.float64)).tolist() == [[8, 13]]


def saved(path: Path, **arrays: Any) -> Path:
    """A .npz file of a 3-5-2 network with these arrays beside or instead of its own."""
    g = np.random.default_rng(1)
    own = {"W0": g.normal(size=(5, 3)), "b0": g.normal(size=5), "W1": g.normal(size=(2, 5))}
    np.savez(path, **{k: v for k, v in {**own, **arrays}.items() if v is not None})
    return path


def test_npz_conventions(tmp_path: Path) -> None:
    plain = rj.load(saved(tmp_path / "a.npz", activation="relu"))
    variants: list[dict[str, Any]] = [
        {"activation": np.array(["relu"])}, {"activation": b"relu"}, {"activation": "relu", "slope": 0.7},
        {"activation": "relu", "b1": np.zeros(2)}, {"activation": "leaky_relu", "slope": 0.0},
        {"activation": "leaky_relu", "slope": [0.0]}, {"activation": "prelu", "slope": np.zeros(5)},
        {"activation": "relu", "x": np.ones(9), "W": 3, "W0_old": 1, "W01": np.ones((2, 2)), "recurjac/eps0": 3.0},
        {"activation": "relu", "notes": np.array({"a": 1}, dtype=object), "labels": np.array(["a", "b"])},
    ]  # fmt: skip
    x = torch.randn(9, 3, dtype=torch.float64)
    for i, arrays in enumerate(variants):
        assert torch.equal(rj.load(saved(tmp_path / f"{i}.npz", **arrays))(x), plain(x)), arrays
    assert not torch.equal(rj.load(saved(tmp_path / "b.npz", activation="relu", b0=None))(x), plain(x))
    assert torch.equal(rj.load(str(saved(tmp_path / "c.npz", activation="relu")), activation="relu")(x), plain(x))
    assert torch.equal(rj.load(saved(tmp_path / "d.npz"), activation=ReLU())(x), plain(x))


def test_parameters_beside_an_activation(tmp_path: Path) -> None:
    x = torch.randn(9, 3, dtype=torch.float64)
    cases: list[tuple[dict[str, Any], str | AbstractActivation]] = [
        ({"activation": "leaky_relu", "slope": 0.3}, LeakyReLU(0.3)), ({"activation": "elu", "alpha": 1.7}, ELU(1.7)),
        ({"activation": "softplus", "beta": 2.0}, Softplus(2.0)), ({"activation": "elu"}, ELU(1.0)),
    ]  # fmt: skip
    for i, (arrays, activation) in enumerate(cases):
        stated, silent = saved(tmp_path / f"{i}.npz", **arrays), saved(tmp_path / "silent.npz")
        assert torch.equal(rj.load(stated)(x), rj.load(silent, activation=activation)(x))


@pytest.mark.parametrize("path", sorted(NETS.glob("*.npz")), ids=lambda p: p.stem)
def test_shared_networks_agree_with_their_onnx_twins(path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = rj.load(path)
    session = runtime.InferenceSession(path.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    x = np.random.default_rng(0).random((16, 784), dtype=np.float32)
    shape = [n if isinstance(n, int) else 1 for n in wanted.shape]
    theirs = np.concatenate([session.run(None, {wanted.name: row.reshape(shape)})[0].reshape(1, -1) for row in x])
    np.testing.assert_allclose(network(torch.from_numpy(x).double()).numpy(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_a_pickle_is_never_loaded_and_the_next_step_is_named(suffix: str, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / f"m.{suffix}")
    with pytest.raises(rj.InvalidRequest, match=r"never loaded.*load_state_dict.*torch\.export\.save"):
        rj.load(tmp_path / f"m.{suffix}")


@pytest.mark.parametrize(
    "formula",
    [lambda x: torch.log(1 + torch.exp(x[:, :1] - x[:, 1:2])), lambda x: -(x.softmax(1) * x.log_softmax(1)).sum(1)],
    ids=["softplus", "entropy"],
)
def test_modules_that_lose_digits_where_they_are_small_are_read(formula: Callable[[Tensor], Tensor]) -> None:
    """They are compared with normal forms that do not; at usual inputs, both agree to the last digits."""
    module = Fn(lambda _, x: formula(x).reshape(len(x), 1))
    x = torch.tensor([[0.3, -0.7, 0.2]], dtype=torch.float64)
    network = rj.load(module, x)
    torch.testing.assert_close(network(x), module(x), rtol=1e-14, atol=0.0)
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.1))
    true = torch.autograd.functional.jacobian(module, x).reshape(bounds.lower.shape)
    assert bool((bounds.lower <= true).all() & (true <= bounds.upper).all())
