"""Helpers for error messages: quotes of other software's errors, and advice."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


INSIDE = (
    "it computes a derivative inside (torch.func, torch.autograd) in a way that is not traced; compute it by "
    "torch.func.grad or jacrev, or read the function itself and use rj.gradient_network(V) or rj.lie_derivative(V, f)"
)
"""What is wrong with a module that differentiates a part of itself."""
_SIGNS = ("functorch", "fake tensor in the exported program", "The .grad attribute of a Tensor")
"""What PyTorch says of tensors that it made to differentiate."""


def is_derivative(error: Exception) -> bool:
    """Whether PyTorch cannot trace a module because it differentiates a part of itself."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any("eager_transforms" in f for f in files) or any(sign in str(error) for sign in _SIGNS)


def untraced(error: Exception, remedy: str) -> str:
    """Why PyTorch cannot trace a module, and what to do."""
    if is_derivative(error):
        return INSIDE
    return f"{first_line(error)}; {_NUMPY if 'numpy' in str(error).lower() else remedy}"


_NUMPY = "compute with PyTorch in place of NumPy, so that the operations can be followed"


_JUMPS = (
    "it is constant between its jumps, so that its derivative is 0 or does not exist; leave it out, or use abs, relu "
    "or clamp"
)
_KINKS = (
    "the derivative of a ReLU and of other activations with a kink jumps, so that a network that computes it has no "
    "Jacobian; differentiate tanh, sigmoid, softplus, GELU, sin, square or another smooth activation"
)
_SORT = "ranking is not read; take entries of a sort of up to 32, as x.sort(dim)[0][:, k], or use maximum and minimum"
_ADVICE = {
    **dict.fromkeys(
        ("threshold_backward", "relu_backward", "relu_kernel_backward", "elu_backward", "hardtanh_backward",
         "hardswish_backward", "hardsigmoid_backward", "sgn"),
        _KINKS,
    ),
    "_backward": "its derivative inside of a network is not read; bound the function that it is the derivative of",
    **dict.fromkeys(("topk", "kthvalue", "median", "nanmedian"), _SORT),
    **dict.fromkeys(
        ("floor", "ceil", "round", "trunc", "frac", "sign", "heaviside", "fmod", "mod", "remainder",
         "quantizelinear", "dynamicquantizelinear", "bucketize", "searchsorted"),
        _JUMPS,
    ),
    **dict.fromkeys(("hardshrink", "shrink"), "it jumps; use softshrink"),
    **dict.fromkeys(
        ("eq", "equal", "argmax", "argmin"),
        "a comparison or ranking has no derivative; leave it out of the network",
    ),
    "threshold": "use relu, clamp, maximum or minimum",
    "cummax": "use maximum of one part after another",
    "cummin": "use minimum of one part after another",
    "cdist": "write it as torch.linalg.vector_norm(x[:, :, None] - y[:, None], dim=-1)",
    "gridsample": "with a constant grid it is a matrix, which grid_sample makes of unit images; multiply by that",
    "grid_sampler": "with a constant grid it is a matrix, which grid_sample makes of unit images; multiply by that",
    "fft_": "it is a matrix, which it makes of the rows of torch.eye; multiply by its real and imaginary parts",
    "complex": "compute with real and imaginary parts",
    "item": "keep it a tensor, without item() or float()",
    "asinh": "write it as log(x + sqrt(x * x + 1))",
    "acosh": "write it as log(x + sqrt(x * x - 1))",
    "atanh": "write it as 0.5 * log((1 + x) / (1 - x))",
    "asin": "write it as atan(x / sqrt(1 - x * x))",
    "acos": "write it as pi / 2 - atan(x / sqrt(1 - x * x))",
    "atan2": "where its second argument is positive, write it as atan(y / x)",
    "sinc": "away from 0, write it as sin(pi * x) / (pi * x)",
    "xlogy": "write it as x * log(y)",
    "cumprod": "multiply one part after another",
    "nan_to_num": "leave it out; bounds are for inputs where the network is finite",
}  # fmt: skip
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
