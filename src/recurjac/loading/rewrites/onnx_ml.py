"""Operators of the domain ai.onnx.ml, which skl2onnx writes for scikit-learn: linear models and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac.activations import Sigmoid
from recurjac.loading.expression import Expression
from recurjac.loading.rewrites.domain import norm_over
from recurjac.operators.dense import along_last
from recurjac.operators.gather import gather
from recurjac.registry import Unread, onnx_ops


def _linear(x: Expression, coefficients: Sequence[float], intercepts: Sequence[float], rows: int) -> Any:
    weight = torch.tensor(list(coefficients), dtype=torch.float64).reshape(rows, -1)
    y = along_last(x, weight)
    return y.shift(torch.tensor(list(intercepts), dtype=torch.float64)) if len(intercepts) else y


@onnx_ops.reads("LinearRegressor")
def _regressor(
    x: Expression, *, coefficients: Sequence[float] = (), intercepts: Sequence[float] = (), targets: int = 1,
    post_transform: str = "NONE",
) -> Any:  # fmt: skip
    if post_transform != "NONE":
        raise ValueError(f"a linear model with post_transform={post_transform}; leave it out")
    return _linear(x, coefficients, intercepts, targets)


@onnx_ops.reads("LinearClassifier")
def _classifier(
    x: Expression, *, coefficients: Sequence[float] = (), intercepts: Sequence[float] = (),
    post_transform: str = "NONE", classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[Any] = (),
    **_: Any,
) -> Any:  # fmt: skip
    """The scores; labels are not read."""
    count = max(len(classlabels_ints), len(classlabels_strings))
    if len(coefficients) != count * x.shape[-1]:
        raise ValueError("a linear classifier without a row of coefficients for each class; export it with both")
    scores = _linear(x, coefficients, intercepts, count)
    transforms = {"NONE": lambda s: s, "LOGISTIC": lambda s: s.activate(Sigmoid()),
                  "SOFTMAX": lambda s: onnx_ops.readers["Softmax"](s, axis=-1)}  # fmt: skip
    if post_transform not in transforms:
        raise ValueError(f"a linear classifier with post_transform={post_transform}; {', '.join(transforms)} are read")
    return (Unread("labels, which are a ranking"), transforms[post_transform](scores))


@onnx_ops.reads("Normalizer")
def _normalizer(x: Expression, *, norm: str = "MAX") -> Any:
    order = {"L1": 1.0, "L2": 2.0}.get(norm)
    if order is None:
        raise ValueError(f"a normalizer by {norm}; L1 and L2 are read")
    return onnx_ops.readers["Div"](x, norm_over(x, order, [-1], True))


@onnx_ops.reads("ArrayFeatureExtractor")
def _features(x: Expression, index: Any) -> Any:
    if not isinstance(index, Tensor):
        raise ValueError("features whose numbers depend on the input")
    return x.apply(gather(lambda t: t[..., index.flatten().long()], x.shape))
