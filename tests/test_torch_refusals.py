"""Modules that are no networks in normal form: refused by the operation's name, its place and the reason, in a line."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from tests.torch_cases import IMAGE, LINE, ROW, VECTOR, Fn, Shape

attend = F.scaled_dot_product_attention
LAYERS: dict[str, tuple[Callable[[], nn.Module], Shape, str, str]] = {
    "no layer norm": (lambda: nn.LayerNorm(6, eps=-1.0), VECTOR, "layer_norm", "eps=-1.0"),
    "batch norm": (lambda: nn.BatchNorm2d(3, track_running_stats=False), IMAGE, "batch_norm", "batch's own statistics"),
    "softplus": (lambda: nn.Softplus(threshold=1), VECTOR, "softplus", "threshold=1"),
}
PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], Shape, str, str]] = {
    "threshold": (lambda x: F.threshold(x, 0.5, 0.0), VECTOR, "threshold", "where it jumps"),
    "part": (lambda x: (y := x + 1)[:, :2].pow_(20) + y[:, :2], VECTOR, "pow_", "another view is used"),
    "long product": (lambda x: x.expand(-1, 70).prod(1), (1,), "prod", "at most 64"),
    "large product": (lambda x: x @ x.mT, (200, 200), "matmul", "products of entries"),
    "long attention": (lambda x: attend(x, x, x), (400, 40), "scaled_dot_product_attention", "products of entries"),
    "hidden": (lambda x: x.masked_fill(torch.ones(6) > 0, -torch.inf).softmax(1), VECTOR, "softmax", "all masked"),
    "logarithm of hidden": (
        lambda x: x.masked_fill(torch.arange(6) > 3, -torch.inf).log_softmax(1), VECTOR, "log_softmax", "masked",
    ),
    "by zero": (lambda x: x / torch.tensor(0.0), VECTOR, "div", "a division by zero"),
    "jump": (lambda x: torch.where(x > 0, x, x + 1), VECTOR, "where", "such a jump has no Jacobian"),
    "where": (lambda x: torch.where(x > 0, x.flip(1), x), VECTOR, "where", "depends on data"),
    "comparison": (lambda x: (x > 0) + x, VECTOR, "add", "no derivative"),
    "product of comparisons": (lambda x: x * ((x > 0) * (x < 1)), VECTOR, "mul", "no derivative"),
    "gate that jumps": (lambda x: (x + 1) * (x > 0), VECTOR, "mul", "such a jump"),
    "sign": (lambda x: 2 * (x > 0).to(x.dtype), VECTOR, "mul", "such a jump"),
    "filled with infinity": (lambda x: x.masked_fill(x > 0, -torch.inf).softmax(1), VECTOR, "masked_fill", "jumps"),
    "filled with NaN": (lambda x: torch.where(x > 0, x, float("nan")), VECTOR, "where", "jumps"),
    "filled with a jump": (lambda x: x.masked_fill(x < 0, 1.0), VECTOR, "masked_fill", "such a jump"),
    "assigned by another": (lambda x: torch.index_put(x, (x > 0,), x.sum()), VECTOR, "index_put", "more than one"),
    "zeros": (lambda x: x.masked_fill(torch.logical_not(x), 1.0), VECTOR, "logical_not", "is 0"),
    "mask of constants": (lambda x: torch.where(x > 0, 1.0, 0.0) + x, VECTOR, "where", "such a jump"),
    "norm": (lambda x: torch.linalg.vector_norm(x, 3, 1), VECTOR, "linalg_vector_norm", "l3 norm"),
    "long logarithm": (lambda x: x.expand(-1, 70).logsumexp(1), (1,), "logsumexp", "at most 64"),
    "power": (lambda x: x**20, VECTOR, "pow", "the power 20"),
    "exponent": (lambda x: x**x, VECTOR, "pow", "constant number"),
    "dropout": (lambda x: F.dropout(x), VECTOR, "dropout", "makes the network random"),
    "long sort": (lambda x: x.expand(-1, 40).sort(1)[0], (1,), "sort", "at most 32"),
    "integers": (lambda x: x.to(torch.int64), VECTOR, "to", "torch.int64"),
    "half": (lambda x: x.to(torch.float16).float(), VECTOR, "to", "torch.float16"),
    "position": (lambda x: x[:, :1] + x.max(1, keepdim=True)[1], VECTOR, "add", "position of a maximum"),
    "order": (lambda x: torch.sort(x, 1)[1] + x, VECTOR, "add", "the order of a sort"),
    "NaN": (lambda x: x.clamp(min=float("nan")), VECTOR, "clamp", "NaN"),
    "large": (lambda x: x.repeat(1, 10**6), VECTOR, "repeat", "at most"),
}  # fmt: skip


def check(module: nn.Module, shape: Shape, operation: str, words: str) -> str:
    with pytest.raises(rj.UnsupportedLayer) as caught:
        rj.load(module, torch.ones(1, *shape))
    message = str(caught.value)
    assert message.startswith(f"aten.{operation}.")
    assert words in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_refused_with_its_place(name: str) -> None:
    make, shape, operation, words = LAYERS[name]
    module = nn.Sequential(OrderedDict(body=nn.Sequential(OrderedDict(first=nn.Identity(), odd=make()))))
    assert " of module body.odd " in check(module, shape, operation, words)


@pytest.mark.parametrize("name", PLAIN)
def test_an_operation_is_refused(name: str) -> None:
    function, shape, operation, words = PLAIN[name]
    assert "at node " in check(Fn(lambda _, x: function(x)), shape, operation, words)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0), lambda x: x.flatten(0, 1), lambda x: x + x.sum(0),
        lambda x: x.sum(0, keepdim=True), lambda x: x.transpose(0, 1), lambda x: torch.cat([x, x]),
        lambda x: x.squeeze(0), lambda x: x.argmax(1) * x[:, 0], lambda x: x.max(1)[1],
        lambda x: F.batch_norm(x, None, None, training=True),
    ],
)  # fmt: skip
def test_what_mixes_a_batch_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((rj.ConversionError, rj.InvalidNetwork, rj.UnsupportedLayer)) as caught:
        rj.load(Fn(lambda _, x: function(x)), torch.ones(1, *LINE))
    assert "\n" not in str(caught.value)


def test_masks_of_infinite_numbers_that_no_softmax_takes_away_are_refused() -> None:
    with pytest.raises(rj.InvalidNetwork, match="infinite"):
        rj.load(Fn(lambda _, x: x.masked_fill(ROW > 0, -torch.inf)), torch.zeros(1, *VECTOR))
