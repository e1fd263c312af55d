"""What messages quote of other software, and what they advise."""

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
    "softmax": "leave it out: at every input the logits before it have the same largest class, so certified radii hold "
    "for both, but Jacobians, Lipschitz constants and monotonicity of logits are not those of probabilities",
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "layernorm", "groupnorm", "instancenorm", "rms_norm", "rmsnorm"),
        "it divides by the input's own statistics; batch normalisation in eval mode has fixed ones",
    ),
    "attention": "products of two activations are not read; leave the attention out",
    "where": "choices that depend on data are not read; write it with relu, clamp, maximum or minimum",
    "upsample": "upsample to the nearest entry instead",
    "resize": "upsample to the nearest entry instead",
    "einsum": "write it with matmul, one of whose factors is a constant",
    "shrink": "write it with relu: two of them make it",
    "threshold": "write it with relu, clamp, maximum or minimum",
    "glu": "products of two activations are not read, but those of the forms of SiLU, GELU and Mish",
    **dict.fromkeys(
        ("gt", "lt", "ge", "le", "eq", "greater", "less", "equal", "argmax", "topk"),
        "what is compared or ranked has no derivative; leave it out of the network",
    ),
}
"""What would work instead of an operation, by its name or a part of it."""


def advice(operation: str) -> str:
    """What would work instead of an operation that is not read."""
    name = operation.lower()
    whole = _ADVICE.get(name)
    part = next((text for key, text in _ADVICE.items() if len(key) > 3 and key in name), None)
    return whole or part or 'write it with what the README lists under "What it reads"'


@contextmanager
def quiet_failure() -> Iterator[None]:
    """Where it fails, PyTorch logs a traceback and prints a graph: drop what the exception says better."""
    before, printed = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(printed):
            yield
    finally:
        logging.disable(before)
    sys.stderr.write(printed.getvalue())
