"""ONNX's Attention, with heads side by side or as an axis, and its rotation of pairs by known angles."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recurjac.loading.readers.moves import beside
from recurjac.loading.rewrites.attention import attention
from recurjac.loading.rewrites.matrices import moved, multiplied
from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import Unread, onnx_ops


def _with_heads(x: Any, heads: int | None) -> Any:
    """(batch, tokens, heads · size) as (batch, heads, tokens, size); a tensor of four axes as it is."""
    if len(x.shape) == 4:
        return x
    if not heads or len(x.shape) != 3 or x.shape[2] % heads:
        raise ValueError(f"attention of {heads} heads to a tensor of shape {tuple(x.shape)}")
    return moved(x, lambda t: t.unflatten(2, (heads, -1)).transpose(1, 2))


def _after(past: Any, x: Any) -> Any:
    """The tokens of x after those of the past."""
    if past is None:
        return x
    return torch.cat([past, x], 2) if is_constant(past) and is_constant(x) else beside([past, x], 2)


def _mask(mask: Any, causal: bool, offset: int, shape: tuple[int, int]) -> Tensor | None:
    """What is added to the scores (queries, keys): -∞ where nothing is attended to; None for nothing.

    offset: how many keys precede the first query.  A mask of fewer keys hides the others.
    """
    hidden = torch.ones(shape, dtype=torch.bool).triu(offset + 1) if causal else torch.zeros(shape, dtype=torch.bool)
    added = torch.zeros(shape, dtype=torch.float64).masked_fill(hidden, -math.inf)
    if mask is None:
        return added if causal else None
    if not isinstance(mask, Tensor):
        raise ValueError("an attention mask that depends on the input")
    numbers = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool \
        else mask.double()  # fmt: skip
    missing = shape[1] - mask.shape[-1]
    return added + torch.nn.functional.pad(numbers, (0, missing), value=-math.inf)


@onnx_ops.reads("Attention")
def _attention(
    q: Any, k: Any, v: Any, attn_mask: Any = None, past_key: Any = None, past_value: Any = None, lengths: Any = None, *,
    is_causal: int = 0, kv_num_heads: int | None = None, left_window_size: int = -1, q_num_heads: int | None = None,
    right_window_size: int = -1, scale: float | None = None, softcap: float = 0.0, **_: Any,
) -> Any:  # fmt: skip
    if softcap or lengths is not None or max(left_window_size, right_window_size) >= 0:
        raise ValueError("attention with softcap, windows or padded keys; write it with MatMul, Tanh and a mask")
    flat = len(q.shape) == 3
    query, key, value = _with_heads(q, q_num_heads), _with_heads(k, kv_num_heads), _with_heads(v, kv_num_heads)
    key, value = _after(past_key, key), _after(past_value, value)
    present = (key, value)
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = (moved(t, lambda u: u.repeat_interleave(times, 1)) for t in (key, value))
    offset = 0 if past_key is None else past_key.shape[2]
    mask = _mask(attn_mask, bool(is_causal), offset, (query.shape[2], key.shape[2]))
    factor = 1 / math.sqrt(query.shape[3]) if scale is None else scale
    y = attention(query, key, value, mask, factor)
    y = moved(y, lambda t: t.transpose(1, 2).flatten(2)) if flat else y
    return (y, *present, Unread("the scores of an attention"))


@onnx_ops.reads("RotaryEmbedding")
def _rotary(
    x: Any, cos: Any, sin: Any, positions: Any = None, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Any:  # fmt: skip
    """Pairs of entries of each head, turned by the angles of their token: a linear map."""
    heads = _with_heads(x, num_heads)
    size = rotary_embedding_dim or heads.shape[3]
    c, s = ((t if positions is None else t[positions.long()]).unsqueeze(1) for t in (cos, sin))
    if c.shape[-1] * 2 != size:
        raise ValueError(f"angles of {c.shape[-1]} pairs for {size} entries")

    def half(t: Tensor, which: int) -> Tensor:
        turned = t[..., :size]
        return turned[..., which::2] if interleaved else turned.chunk(2, -1)[which]

    a, b = (moved(heads, lambda t, w=w: half(t, w)) for w in (0, 1))
    real = multiplied(a, c).plus(scaled(multiplied(b, s), -1.0))
    imaginary = multiplied(a, s).plus(multiplied(b, c))
    y = beside(
        [real, imaginary, moved(heads, lambda t: t[..., size:])] if size < heads.shape[3] else [real, imaginary], 3
    )
    if interleaved:
        order = torch.arange(size).reshape(2, -1).T.flatten()
        y = moved(y, lambda t: torch.cat([t[..., order], t[..., size:]], -1))
    return moved(y, lambda t: t.transpose(1, 2).flatten(2)) if len(x.shape) == 3 else y
