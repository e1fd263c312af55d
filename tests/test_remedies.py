"""What a message advises instead of an operation that is not read works: it is read, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from tests.torch_cases import Fn

Function = Callable[[Tensor], Tensor]
CENTRES = torch.linspace(-1, 1, 12).reshape(1, 2, 6)
GRID = torch.linspace(-0.9, 0.9, 16).reshape(1, 2, 4, 2)
TABLE = torch.linspace(-1, 1, 10).reshape(5, 2)


def sampled(x: Tensor) -> Tensor:
    """A constant grid as the matrix that it is."""
    units = torch.eye(6, dtype=x.dtype).reshape(6, 1, 2, 3)
    matrix = F.grid_sample(units, GRID.to(x).expand(6, 2, 4, 2), align_corners=False).flatten(1)
    return (x @ matrix).reshape(-1, 1, 2, 4)


def spectrum(x: Tensor) -> Tensor:
    rows = torch.fft.rfft(torch.eye(6, dtype=x.dtype))
    return torch.hypot(x @ rows.real, x @ rows.imag)


def running(x: Tensor) -> Tensor:
    parts = [x[:, 0]]
    for k in range(1, 6):
        parts.append(torch.maximum(parts[-1], x[:, k]))
    return torch.stack(parts, 1)


def rotated(x: Tensor) -> Tensor:
    """A complex product, by real and imaginary parts."""
    a, b = x[:, ::2], x[:, 1::2]
    return torch.stack([0.6 * a - 0.8 * b, 0.8 * a + 0.6 * b], 2).flatten(1)


def turned(x: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(1, (3, 2)).contiguous())
    return torch.view_as_real(pairs * torch.tensor(0.6 + 0.8j)).flatten(1)


PAIRS: dict[str, tuple[Function, Function, str]] = {
    "topk": (lambda x: x.topk(2, 1)[0], lambda x: x.sort(1)[0][:, [5, 4]], "x.sort(dim)[0][:, k]"),
    "median": (lambda x: x.median(1)[0], lambda x: x.sort(1)[0][:, 2], "x.sort(dim)[0][:, k]"),
    "kthvalue": (lambda x: x.kthvalue(2, 1)[0], lambda x: x.sort(1)[0][:, 1], "x.sort(dim)[0][:, k]"),
    "cummax": (lambda x: x.cummax(1)[0], running, "maximum of one part after another"),
    "sign": (lambda x: x * x.sign(), torch.abs, "abs, relu or clamp"),
    "heaviside": (lambda x: x * torch.heaviside(x, torch.tensor(0.0)), torch.relu, "abs, relu or clamp"),
    "cdist": (
        lambda x: torch.cdist(x[:, None], CENTRES.to(x)),
        lambda x: torch.linalg.vector_norm(x[:, None][:, :, None] - CENTRES.to(x)[:, None], dim=-1),
        "torch.linalg.vector_norm(x[:, :, None] - y[:, None], dim=-1)",
    ),
    "grid_sampler": (
        lambda x: F.grid_sample(
            x.reshape(-1, 1, 2, 3), GRID.to(x).expand(x.shape[0], 2, 4, 2), align_corners=False
        ),
        sampled,
        "a matrix",
    ),
    "fft": (lambda x: torch.fft.rfft(x).abs(), spectrum, "torch.eye"),
    "complex": (turned, rotated, "real and imaginary parts"),
    "item": (lambda x: x * x[0].max().item(), lambda x: x * x.max(1, keepdim=True)[0], "keep it a tensor"),
    "nan_to_num": (lambda x: torch.nan_to_num(x) * 2, lambda x: x * 2, "leave it out"),
    "comparison": (lambda x: x[x > 0], lambda x: torch.where(x > 0, x, 0.0), "where(x > c"),
    "jump": (
        lambda x: torch.where(x > 0, x, x - 1), lambda x: torch.where(x > 0, x, x * 0.5), "make both sides equal there"
    ),
    "threshold": (lambda x: F.threshold(x, 0.5, 0.0), lambda x: x.clamp(min=0.5), "clamp"),
    "hardshrink": (F.hardshrink, F.softshrink, "softshrink"),
    "asinh": (torch.asinh, lambda x: torch.log(x + torch.sqrt(x * x + 1)), "log(x + sqrt(x * x + 1))"),
    "acosh": (
        lambda x: torch.acosh(x.exp() + 2), lambda x: torch.log(x.exp() + 2 + torch.sqrt((x.exp() + 2) ** 2 - 1)),
        "log(x + sqrt(x * x - 1))",
    ),
    "atanh": (
        lambda x: torch.atanh(0.9 * x.tanh()), lambda x: 0.5 * torch.log((1 + 0.9 * x.tanh()) / (1 - 0.9 * x.tanh())),
        "0.5 * log((1 + x) / (1 - x))",
    ),
    "asin": (
        lambda x: torch.asin(0.9 * x.sin()), lambda x: torch.atan(0.9 * x.sin() / torch.sqrt(1 - (0.9 * x.sin()) ** 2)),
        "atan(x / sqrt(1 - x * x))",
    ),
    "acos": (
        lambda x: torch.acos(0.9 * x.sin()),
        lambda x: torch.pi / 2 - torch.atan(0.9 * x.sin() / torch.sqrt(1 - (0.9 * x.sin()) ** 2)),
        "pi / 2 - atan(x / sqrt(1 - x * x))",
    ),
    "atan2": (
        lambda x: torch.atan2(x, x.exp()), lambda x: torch.atan(x / x.exp()), "where its second argument is positive"
    ),
    "sinc": (
        lambda x: torch.sinc(2 + x.tanh()),
        lambda x: torch.sin(torch.pi * (2 + x.tanh())) / (torch.pi * (2 + x.tanh())),
        "sin(pi * x) / (pi * x)",
    ),
    "xlogy": (
        lambda x: torch.special.xlogy(x, x.exp() + 1), lambda x: x * torch.log(x.exp() + 1), "x * log(y)"
    ),
    "cumprod": (
        lambda x: x[:, :2].cumprod(1), lambda x: torch.stack([x[:, 0], x[:, 0] * x[:, 1]], 1), "one part after another"
    ),
    "looked up": (
        lambda x: F.embedding(x.long(), TABLE.to(x)), lambda x: x[:, :5] @ TABLE.to(x), "vectors times its weights"
    ),
}  # fmt: skip
DIFFERENT = ("comparison", "jump", "threshold", "hardshrink", "looked up", "item")
"""Those of which the advice is for another function, or the original is for one input."""


@pytest.mark.parametrize("name", PAIRS)
def test_the_advice_is_read_and_computes_the_same(name: str) -> None:
    refused, advised, words = PAIRS[name]
    with pytest.raises(rj.RecurJacError) as caught:
        rj.load(Fn(lambda _, x: refused(x)), torch.ones(1, 6))
    assert words in str(caught.value)
    assert "test_remedies.py, line" in str(caught.value) or "torch_cases.py, line" in str(caught.value)
    network = rj.load(Fn(lambda _, x: advised(x)), torch.ones(1, 6))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    if name not in DIFFERENT:
        torch.testing.assert_close(network(x.double()).float().reshape(4, -1), refused(x).reshape(4, -1))


def test_the_advice_on_rounding_works_up_to_it() -> None:
    module = Fn(lambda p, x: torch.round(p[0](x)), nn.Linear(6, 2))
    with pytest.raises(rj.UnsupportedLayer, match=r"leave it out, or use abs.*cut_at='linear'"):
        rj.load(module, torch.ones(1, 6))
    assert rj.load(module, torch.ones(1, 6), cut_at="linear").output_shape == (2,)


def test_the_advice_on_rankings_at_the_end_works() -> None:
    module: Any = Fn(lambda p, x: p[0](x).argmax(1), nn.Linear(6, 3))
    with pytest.raises(rj.UnsupportedLayer, match=r"no derivative.*cut_at='linear'"):
        rj.load(module, torch.ones(1, 6))
    network = rj.load(module, torch.ones(1, 6), cut_at="linear")
    assert network.margin(0, 1).output_shape == (1,)


def test_a_kernel_that_depends_on_the_input_is_no_crash() -> None:
    with pytest.raises(rj.UnsupportedLayer, match="inputs depend on the network's input"):
        rj.load(Fn(lambda _, x: F.conv1d(x[:, None], x[:1, None, :2])), torch.ones(1, 6))
    with pytest.raises(rj.UnsupportedLayer, match="linalg_inv"):
        rj.load(Fn(lambda _, x: torch.linalg.inv(x[:, :, None] * x[:, None])), torch.ones(1, 3))
