"""Normalisations and lengths that are written out are read as the built-in ones, and what is nearly one is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import AbstractRowFunction, FlooredRows, LengthRows, NormalisedRows, ShiftedRows
from tests.marks import in_turn
from tests.torch_cases import Fn

Formula = Callable[[Tensor], Tensor]
EPS = 0.01
SEVERAL = torch.tensor([[[0.1], [0.2], [0.1]]])


def _centred(x: Tensor, dim: int = -1) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _size(x: Tensor, dim: int = -1, eps: float = EPS) -> Tensor:
    return torch.sqrt(x.pow(2).mean(dim, keepdim=True) + eps)


def _layer(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


RMS, LAYER = NormalisedRows(EPS, False), NormalisedRows(EPS, True)
READ: dict[str, tuple[Formula, AbstractRowFunction]] = {
    "rms by rsqrt": (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS), RMS),
    "rms, root first": (lambda x: torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * x, RMS),
    "rms by a power": (lambda x: x * (x.square().mean(-1, keepdim=True) + EPS) ** -0.5, RMS),
    "rms by a sum": (lambda x: x / torch.sqrt((x**2).sum(-1, keepdim=True) / 4 + EPS), RMS),
    "rms of an inverse": (lambda x: x * (1 / _size(x)).expand_as(x), RMS),
    "rms over another axis": (lambda x: x / _size(x, -2), RMS),
    "rms of several axes": (lambda x: x / torch.sqrt(x.square().mean((-1, -2), keepdim=True) + EPS), RMS),
    "layer by var": (lambda x: _centred(x) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + EPS), LAYER),
    "layer by squares": (lambda x: _centred(x) / _size(_centred(x)), LAYER),
    "layer by rsqrt": (lambda x: torch.rsqrt(_centred(x).square().mean(-1, keepdim=True) + EPS) * _centred(x), LAYER),
    "layer over another axis": (lambda x: _centred(x, 1) / _size(_centred(x, 1), 1), LAYER),
    "centred over another axis": (lambda x: _centred(x, 1) / _size(_centred(x, 1)), RMS),
    "part of a mean": (lambda x: (x - 0.5 * x.mean(-1, keepdim=True)) / _size(x - 0.5 * x.mean(-1, keepdim=True)), RMS),
    "rows without mean": (lambda x: x / _size(x, eps=0.0), NormalisedRows(0.0, False)),
    "an eps beside the size": (lambda x: x / (_size(x, eps=0.0) + EPS), ShiftedRows(EPS, 4, False)),
    "an eps beside the length": (lambda x: x / (x.norm(dim=-1, keepdim=True) + EPS), ShiftedRows(EPS, 1, False)),
    "an eps beside the deviation": (
        lambda x: _centred(x) / (x.std(-1, keepdim=True) + EPS), ShiftedRows(EPS, 3, True)
    ),
    "normalize": (lambda x: F.normalize(x, dim=-1, eps=1.5), FlooredRows(1.5, 1, False)),
    "normalize with a usual eps": (lambda x: F.normalize(x, dim=1, eps=2.0**-30), FlooredRows(2.0**-30, 1, False)),
    "smoothed length": (lambda x: torch.sqrt((x**2).sum(-1) + EPS), LengthRows(1, EPS)),
    "length": (lambda x: torch.sqrt((x * x).sum(-1)), LengthRows()),
    "root of a mean": (lambda x: _size(x), LengthRows(4, EPS)),
    "modulus": (lambda x: torch.sqrt(x[..., :2] ** 2 + x[..., 2:].square()), LengthRows()),
    "modulus of functions": (
        lambda x: torch.sqrt(torch.tanh(x[..., :2]) ** 2 + x[..., 2:] ** 2 + EPS), LengthRows(1, EPS)
    ),
    "mean of three squares": (
        lambda x: torch.sqrt((x[..., 0] ** 2 + x[..., 1] ** 2 + x[..., 3] ** 2) / 2), LengthRows(2, 0.0)
    ),
    "deviation": (lambda x: x.std(-1), LengthRows(3, 0.0)),
}  # fmt: skip
OTHERS: dict[str, Formula] = {
    "sum for mean": lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + EPS),
    "unbiased": lambda x: _centred(x) / torch.sqrt(x.var(-1, keepdim=True) + EPS),
    "a factor": lambda x: x * torch.rsqrt(2 * x.pow(2).mean(-1, keepdim=True) + EPS),
    "another factor": lambda x: x * torch.rsqrt((1.5 * x).pow(2).mean(-1, keepdim=True) + EPS),
    "some numbers": lambda x: x * torch.rsqrt(x[..., :3].pow(2).mean(-1, keepdim=True) + EPS),
    "numbers of the next row": lambda x: x / _size(x.roll(1, -2)),
    "numbers in another order": lambda x: x.flip(-1) / _size(x),
    "numbers twice": lambda x: x / torch.sqrt(torch.cat([x, x[..., :2]], -1).pow(2).sum(-1, keepdim=True) / 4 + EPS),
    "centred, size of all": lambda x: _centred(x) / _size(x),
    "all, size of centred": lambda x: x / _size(_centred(x)),
    "an eps for each row": lambda x: x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + SEVERAL),
    "a shift": lambda x: (x + 0.1) / _size(x),
    "another function": lambda x: x / _size(torch.tanh(x)),
    "fourth powers": lambda x: x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + EPS),
    "a size less a number": lambda x: x / (_size(x, eps=0.0) - EPS),
    "squares with two factors": lambda x: torch.sqrt(2 * x[..., :2] ** 2 + x[..., 2:] ** 2),
    "squares with two factors, the plain one first": lambda x: torch.sqrt(x[..., :2] ** 2 + 2 * x[..., 2:] ** 2),
    "squares with two shares": lambda x: torch.sqrt(x[..., :2] ** 2 / 2 + x[..., 2:] ** 2 / 3),
    "a square less a square": lambda x: torch.sqrt((x[..., :2] ** 2 - 0.5 * x[..., 2:] ** 2).abs() + EPS),
    "a square and a cube": lambda x: torch.sqrt(x[..., :2] ** 2 + x[..., 2:] ** 3 + 30),
    "eps twice": lambda x: x / (_size(x) + EPS),
    "two floors": lambda x: x / (_size(x, eps=0.0).clamp_min(0.5) + EPS),
    "another power": lambda x: x * (x.pow(2).mean(-1, keepdim=True) + EPS) ** -0.25,
}  # fmt: skip


def _network(formula: Formula, layer: bool) -> tuple[rj.Network, nn.Module, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 4, generator=g, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Fn(lambda p, t: formula(p[0](t)), nn.Linear(4, 4) if layer else nn.Identity()).double()
    return rj.load(module, x), module, x


def _functions(network: rj.Network) -> list[object]:
    return [s.closed.function for s in network.stages if s.closed is not None]


def _check(network: rj.Network, module: nn.Module, x: Tensor) -> None:
    """Values are those of the module, and its derivatives are within the bounds."""
    g = torch.Generator().manual_seed(1)
    points = x + 0.2 * (2 * torch.rand(8, *x.shape[1:], generator=g, dtype=torch.float64) - 1)
    torch.testing.assert_close(network(points), module(points), rtol=1e-9, atol=1e-12)
    bounds = rj.jacobian_bounds(network.detached(), rj.LpBall(x, 0.2), method=rj.ClosedForms(rj.Chords()))
    each = [torch.autograd.functional.jacobian(module, p.unsqueeze(0)) for p in points]
    true = torch.stack([j.reshape(bounds.lower.shape[1:]) for j in each])
    assert bool((bounds.lower <= true + 1e-9).all() & (true <= bounds.upper + 1e-9).all())


@pytest.mark.parametrize(("name", "layer"), in_turn(list(READ), [False, True]))
def test_what_is_written_out_is_read(name: str, layer: bool) -> None:
    formula, function = READ[name]
    network, module, x = _network(formula, layer)
    assert _functions(network)[-1] == function
    _check(network, module, x)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_nearly_a_normalisation_is_not_read_as_one(name: str) -> None:
    network, module, x = _network(OTHERS[name], False)
    assert not any(isinstance(f, NormalisedRows | ShiftedRows | FlooredRows) for f in _functions(network))
    _check(network, module, x)


def test_the_network_is_that_of_the_layer() -> None:
    """Also behind a residual connection, in which the mean is of a sum."""

    def written(x: Tensor) -> Tensor:
        total = x + x.tanh()
        return _centred(total) / _size(_centred(total))

    own = _network(written, True)[0]
    wanted = _network(lambda x: _layer(x + x.tanh()), True)[0]
    assert [(s.activation, s.shape, s.closed is None) for s in own.stages] == [
        (s.activation, s.shape, s.closed is None) for s in wanted.stages
    ]
    assert _functions(own) == _functions(wanted)


def test_parameters_are_followed() -> None:
    """A change of weights of which rows are made reaches the network; equal weights of another layer are no match."""
    first, second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = Fn(lambda p, t: p[0](t) / _size(p[1](t)), first, second)
    network = rj.load(module, x)
    assert not any(isinstance(f, NormalisedRows) for f in _functions(network))

    def once(p: nn.ModuleList, t: Tensor) -> Tensor:
        x: Tensor = p[0](t)
        return x / _size(x)

    same = Fn(once, first)
    followed = rj.load(same, x)
    assert _functions(followed)[-1] == RMS
    with torch.no_grad():
        first.weight.mul_(2.0)
    torch.testing.assert_close(network(x), module(x))
    torch.testing.assert_close(followed(x), same(x))


def test_files_that_spell_a_layer_out(tmp_path: Path) -> None:
    """As exporters wrote layer normalisation before ONNX had it."""
    onnx = pytest.importorskip("onnx")
    from tests.onnx_models import model, node

    nodes = [
        node("ReduceMean", "x", "mean", axes=[-1]), node("Sub", "x mean", "c"), node("Pow", "c two", "squares"),
        node("ReduceMean", "squares", "variance", axes=[-1]), node("Add", "variance eps", "raised"),
        node("Sqrt", "raised", "size"), node("Div", "c size", "unit"), node("Mul", "unit weight", "y"),
    ]  # fmt: skip
    constants = {"two": 2.0, "eps": 0.25, "weight": [1.0, 2.0, -1.0, 0.5]}
    path = tmp_path / "layer.onnx"
    onnx.save(model(nodes, [1, 4], constants), path)
    network = rj.load(path)
    assert _functions(network)[-1] == NormalisedRows(0.25, True)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=network.dtype)
    wanted = F.layer_norm(x, (4,), torch.tensor(constants["weight"], dtype=x.dtype), eps=0.25)
    torch.testing.assert_close(network(x), wanted)
