"""Small modules and ONNX models with softmax, matrix products of two branches, attention, and normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import nn

from tests.onnx_cases import IMAGE as ONNX_IMAGE
from tests.onnx_cases import TOKENS, numbers, one, several
from tests.onnx_models import node
from tests.torch_cases import Fn, layers, plain

LINE = (3, 4)
CAUSAL = torch.ones(3, 3, dtype=torch.bool).tril()
HIDDEN = torch.zeros(3, 3, dtype=torch.float64).masked_fill(~CAUSAL, -torch.inf)
BURIED = torch.where(CAUSAL, 0.0, torch.finfo(torch.float32).min).double()
WEIGHTS = (torch.arange(24.0) / 8 - 1).reshape(3, 4, 2)
attend = F.scaled_dot_product_attention


def batched(name: str) -> Callable[[], nn.Module]:
    """A layer of nn with tokens of 4 channels."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "attention": lambda: Fn(lambda p, x: p[0](x, x, x, need_weights=False)[0], _heads()),
        "weighted": lambda: Fn(lambda p, x: p[0](x, x, x)[0], _heads()),
        "masked": lambda: Fn(lambda p, x: p[0](x, x, x, attn_mask=HIDDEN.to(x), need_weights=False)[0], _heads()),
        "encoder": lambda: _encoder(),
        "encoder-first": lambda: _encoder(norm_first=True, activation="gelu"),
    }
    return kinds[name]


def _heads() -> nn.Module:
    return nn.MultiheadAttention(4, 2, batch_first=True)


def _encoder(**settings: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, **settings)


def varied(layer: nn.Module) -> nn.Module:
    """A layer whose weights and biases are not those that it starts with."""
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer


TORCH: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **plain(
        LINE,
        softmax=lambda x: x.softmax(-1) + F.softmax(x, 1),
        softmax_of_one=lambda x: x[:, :1].softmax(1) * x,
        log_softmax=lambda x: F.log_softmax(x, 1) + x.log_softmax(2),
        two_classes=lambda x: x[:, :, :2].softmax(2),
        matrices=lambda x: x @ x.mT @ x,
        vectors=lambda x: x @ x[:, 0].unsqueeze(-1) + torch.bmm(x, x.mT)[:, :, :1],
        several_matrices=lambda x: x.unsqueeze(2) @ WEIGHTS.to(x),
        added=lambda x: torch.baddbmm(x, x @ x.mT, x, beta=0.5, alpha=2),
        filled_in_place=lambda x: (
            (x + 0).masked_fill_(CAUSAL[:, :1], 2.0) + x.masked_fill(CAUSAL[:, 1:2], torch.tensor(3.0))
        ),
        einsum=lambda x: torch.einsum("bij,bkj->bik", x, x.tanh()) @ torch.einsum("bij->bji", x).mT,
        einsum_weights=lambda x: torch.einsum("bij,ijk->bk", x, WEIGHTS.to(x)),
        attend=lambda x: attend(x, x.tanh(), x.flip(1)),
        causal=lambda x: attend(x, x.tanh(), x, is_causal=True, scale=0.3),
        truth_mask=lambda x: attend(x, x, x, attn_mask=CAUSAL),
        hidden=lambda x: (x @ x.mT).masked_fill(~CAUSAL, -torch.inf).softmax(-1) @ x,
        filled_by_large_numbers=lambda x: (
            (x @ x.mT).masked_fill(~CAUSAL, -1e9).softmax(-1)
            + (x @ x.mT + BURIED).log_softmax(1).clamp(-9, 9)
            + ((x @ x.mT) * 2 + BURIED.flip(0)).softmax(2)
        ),
        filled_by_a_number=lambda x: (x @ x.mT).masked_fill(~CAUSAL, 0.5),
        where_mask=lambda x: torch.where(CAUSAL, x @ x.mT, 0.0) + torch.where(~CAUSAL, 1.0, x[:, :, :3]),
        normalised=lambda x: F.normalize(x, dim=-1),
        instance=lambda x: F.instance_norm(x) + F.layer_norm(x, (3, 4)),
        variance=lambda x: (x - x.mean(1, True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-3),
        variances=lambda x: (x * torch.rsqrt(x.var((1, 2), keepdim=True) + 0.1)) / (torch.exp(x).sum(1, True) + 1),
    ),
    **layers(
        LINE,
        layer_norm=lambda: varied(nn.LayerNorm(4)),
        layer_norm_plain=lambda: nn.LayerNorm((3, 4), elementwise_affine=False, eps=0.1),
        rms_norm=lambda: varied(nn.RMSNorm(4, eps=1e-6)),
        rms_norm_of_float64=lambda: varied(nn.RMSNorm(4, dtype=torch.float64)),
        no_eps=lambda: varied(nn.RMSNorm(4, eps=0.0)),
        group_norm=lambda: varied(nn.GroupNorm(1, 3)),
        instance_norm=lambda: varied(nn.InstanceNorm1d(3, affine=True)),
        multihead=batched("attention"),
        multihead_weighted=batched("weighted"),
        multihead_masked=batched("masked"),
        encoder=batched("encoder"),
        encoder_first=batched("encoder-first"),
    ),
    **layers((4, 2, 3), group_norm2d=lambda: varied(nn.GroupNorm(2, 4)), instance_norm2d=lambda: nn.InstanceNorm2d(4)),
}
"""Modules, with the shapes of their inputs."""


def _onnx() -> dict[str, Any]:
    scale, bias = numbers(3), numbers(3, seed=1)
    both = {"s": scale, "b": bias}
    hidden = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32)
    return {
        "Softmax": one("Softmax", shape=TOKENS),
        "Softmax of rows": one("Softmax", shape=TOKENS, axis=1),
        "Softmax of opset 11": one("Softmax", opset=11),
        "LogSoftmax": one("LogSoftmax", shape=TOKENS, axis=-1),
        "MatMul of branches": several([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")], TOKENS),
        "Einsum": one("Einsum", "x x", shape=TOKENS, equation="bij,bkj->bik"),
        "Einsum of weights": one("Einsum", "x w", shape=TOKENS, constants={"w": numbers(3, 2)}, equation="bij,jk->bik"),
        "LayerNormalization": one("LayerNormalization", "x s b", shape=TOKENS, constants=both),
        "LayerNormalization without bias": one("LayerNormalization", "x s", shape=TOKENS, constants={"s": scale}),
        "InstanceNormalization": one("InstanceNormalization", "x s b", shape=ONNX_IMAGE, constants=both),
        "RMSNormalization": one("RMSNormalization", "x s", shape=TOKENS, opset=23, constants={"s": scale}),
        "attention with a mask": several(
            [
                node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "scores"),
                node("Add", "scores m", "masked"), node("Softmax", "masked", "p"), node("MatMul", "p x"),
            ],
            TOKENS,
            m=hidden,
        ),
    }  # fmt: skip


ONNX: dict[str, Any] = _onnx()
"""ONNX models."""
