"""Conversions between float32 and float64 inside a module change nothing: they are read as the identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj

CASTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "float": lambda _, x: x.float(),
    "to": lambda _, x: x.to(torch.float32),
    "to weight": lambda m, x: x.to(m.first.weight.dtype),
    "type as": lambda m, x: x.type_as(m.first.weight),
    "as tensor": lambda _, x: torch.as_tensor(x, dtype=torch.float32),
    "double, float": lambda _, x: x.double().float(),
    "sum": lambda _, x: torch.cat([x.sum(1, keepdim=True, dtype=torch.float32) - x[:, 1:], x[:, 1:]], 1),
    "cosines": lambda _, x: x.float() + torch.linspace(0, 1, 2).cos() - torch.cos(torch.tensor([0.0, 1.0])),
    "weight": lambda _, x: torch.nn.functional.linear(x.float(), torch.eye(2)),
}
"""Casts of x that leave it as it is, with constants that are computed in float32."""


class Net(nn.Module):
    def __init__(self, cast: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cast, self.first, self.last = cast, nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.gelu(self.first(self.cast(self, x))))  # type: ignore[no-any-return]


def bounds(network: Any) -> tuple[Tensor, Tensor]:
    found = rj.jacobian_bounds(network, rj.LpBall(torch.tensor([[0.1, -0.2]]), 0.1), method=rj.Chords())
    return found.lower, found.upper


PLAIN = Net(lambda _, x: x)
X = torch.zeros(1, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASTS)
def test_a_cast_changes_nothing(name: str, dtype: torch.dtype) -> None:
    ours, theirs = (bounds(rj.load(Net(f), X, dtype=dtype)) for f in (CASTS[name], PLAIN.cast))
    rtol = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)


def test_pixels_are_scaled() -> None:
    scaled = rj.load(Net(lambda _, x: x.float() / 255.0), X)
    plain = rj.load(PLAIN, X).precompose(torch.eye(2, dtype=torch.float64) / 255)
    torch.testing.assert_close(bounds(scaled), bounds(plain), rtol=1e-9, atol=1e-12)


def test_a_module_stays_as_it_is() -> None:
    """Its parameters keep their type, and the network in that type follows them."""
    module = Net(CASTS["float"])
    network = rj.load(module, X, dtype=torch.float32)
    assert module.first.weight.dtype == torch.float32
    bounds(network)[1].sum().backward()
    assert module.first.weight.grad is not None
    assert bool(module.first.weight.grad.any())
    with torch.no_grad():
        module.first.weight.mul_(2)
    torch.testing.assert_close(network(X), module(X))


def test_a_file_with_casts_is_read(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Net(CASTS["cosines"]).eval(), (X,)), tmp_path / "m.pt2")
    torch.testing.assert_close(bounds(rj.load(tmp_path / "m.pt2")), bounds(rj.load(PLAIN, X)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cast", [lambda _, x: x.int().float(), lambda _, x: x.half().float()])
def test_casts_that_round_are_refused(cast: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(rj.UnsupportedLayer, match="only float32 and float64 are read"):
        rj.load(Net(cast), X)
