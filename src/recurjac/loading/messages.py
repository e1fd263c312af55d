"""Helpers for error messages: quotes of other software's errors, and advice."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


_ADVICE = {
    "softmax": "leave it out: the largest class is the same for logits, so certified radii hold for both; a ratio of "
    "probabilities rises exactly where the margin of their logits does (--margin A B, net.margin(a, b)), but with more "
    "than two classes a probability can fall where its own logit rises",
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "layernorm", "groupnorm", "instancenorm", "rms_norm", "rmsnorm"),
        "it divides by statistics of the input; batch normalisation in eval mode uses fixed statistics",
    ),
    "topk": "ranking is not read; use a sort of few entries, or maximum and minimum",
    "attention": "matrix products of two branches are not read; leave the attention out",
    "upsample": "upsample to the nearest entry instead",
    "resize": "upsample to the nearest entry instead",
    "einsum": "only products with constants are read; use matmul with one constant factor",
    "threshold": "use relu, clamp, maximum or minimum",
    **dict.fromkeys(
        ("eq", "equal", "argmax"),
        "a comparison or ranking has no derivative; leave it out of the network",
    ),
}
"""The alternative to an operation, by its name or a part of it."""


def advice(operation: str) -> str:
    """The alternative to an operation that is not read."""
    name = operation.lower()
    whole = _ADVICE.get(name)
    part = next((text for key, text in _ADVICE.items() if len(key) > 3 and key in name), None)
    return whole or part or 'use operations that docs/networks.md lists under "Layers"'


@contextmanager
def quiet_failure() -> Iterator[None]:
    """Suppress the traceback and the graph that PyTorch logs and prints on failure; the exception is clearer."""
    before, printed = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(printed):
            yield
    finally:
        logging.disable(before)
    sys.stderr.write(printed.getvalue())
