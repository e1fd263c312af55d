"""Scaled dot-product attention, softmax(q kᵀ / √d + mask) v, with a constant mask."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recurjac.loading.rewrites.matrices import matmul, moved
from recurjac.loading.rewrites.softmax import softmax
from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import torch_ops


def attention(query: Any, key: Any, value: Any, mask: Tensor | None, factor: float) -> Any:
    """softmax(factor · query keyᵀ + mask) value; the mask has -∞ where nothing is attended to."""
    if is_constant(query) and is_constant(key):
        weights: Any = query @ key.mT * factor
        weights = torch.softmax(weights if mask is None else weights + mask, -1)
    else:
        scores = scaled(matmul(query, moved(key, lambda t: t.mT)), factor)
        weights = softmax(scores if mask is None else scores.shift(mask), -1)
    return matmul(weights, value)


def _additive(mask: Any, causal: bool, shape: tuple[int, int]) -> Tensor | None:
    """The mask as numbers to be added, with -∞ where a mask of truth values is false."""
    if causal:
        return torch.zeros(shape, dtype=torch.float64).masked_fill(
            ~torch.ones(shape, dtype=torch.bool).tril(), -math.inf
        )
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ValueError("an attention mask that depends on the input")
    blank = torch.zeros(mask.shape, dtype=torch.float64)
    return blank.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask.double()


@torch_ops.reads("aten.scaled_dot_product_attention.default")
def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, *,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout_p:
        raise ValueError("a dropout in training mode makes the network random; export the module in eval mode")
    if enable_gqa:
        count = query.shape[-3] // key.shape[-3]
        key, value = (moved(t, lambda u: u.repeat_interleave(count, -3)) for t in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    mask = _additive(attn_mask, is_causal, (query.shape[-2], key.shape[-2]))
    return attention(query, key, value, mask, factor)
