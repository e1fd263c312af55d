"""Affine maps before a network, folded into the operators that read its input, so that nothing is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.errors import InvalidRequest, expect
from recurjac.network.numbers import exact_numbers
from recurjac.network.stage import Constant, Stage
from recurjac.operators import AbstractOperator, Gather, compose


def reading(stage: Stage, operator: AbstractOperator, shift: Tensor | None) -> Stage:
    """The stage with operator(x') + shift in place of the input x; shift has the input's shape."""
    edges = tuple(replace(e, operator=compose(e.operator, operator)) if e.source == 0 else e for e in stage.edges)
    moved = () if shift is None else tuple(Constant(e.operator, shift) for e in stage.edges if e.source == 0)
    kept = None if stage.selection is not None and stage.selection.source == 0 else stage.selection
    known = None if stage.closed is not None and stage.closed.source == 0 else stage.closed
    extremes = None if stage.extremes is not None and stage.extremes.source == 0 else stage.extremes
    product = stage.matrices
    if product is not None and 0 in (product.first.source, product.second.source):
        product = None
    constants = (*stage.constants, *moved)
    return replace(
        stage, edges=edges, constants=constants, selection=kept, closed=known, matrices=product, extremes=extremes
    )


def embedding(features: Mapping[int, Tensor], shape: Shape, device: torch.device) -> Gather:
    """The operator from the vector of all features not in `features`, in order, to inputs that are 0 at `features`."""
    free = torch.tensor([i not in features for i in range(prod(shape))], device=device)
    table = torch.where(free, free.cumsum(0) - 1, -1)
    return Gather(table.unsqueeze(0), (int(free.sum()),), shape)


def fixed_features(features: Any, shape: Shape, dtype: torch.dtype, device: torch.device) -> dict[int, Tensor]:
    """A map from feature indices to scalar values.

    Raises InvalidRequest for what is no map, for a feature that does not exist, if all features are fixed, and for a
    value that is not a finite number of `dtype`.
    """
    expect(features, Mapping, "what is fixed", "give a map from features to values, such as {3: 0.5}")
    size, found = prod(shape), {}
    for feature, value in features.items():
        known = isinstance(feature, SupportsIndex) and not isinstance(feature, bool)
        if not known or not 0 <= int(feature) < size:
            raise InvalidRequest(
                f"the feature {feature!r} cannot be fixed; the network has features 0 to {size - 1} (row-major)"
            )
        number = exact_numbers(f"the value of feature {feature}", value, dtype, device)
        if number.numel() != 1:
            raise InvalidRequest(f"feature {feature} is given {number.numel()} values; give one number")
        found[int(feature)] = number.detach().reshape(())
    if len(found) == size:
        raise InvalidRequest(f"all {size} features are fixed; leave at least one of them free")
    return found


def placed(features: Mapping[int, Tensor], shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of `shape` with the values at their features, and 0 elsewhere."""
    flat = torch.zeros(prod(shape), dtype=dtype, device=device)
    index = torch.tensor(sorted(features), dtype=torch.int64, device=device)
    return flat.index_copy(0, index, torch.stack([features[i] for i in sorted(features)])).reshape(shape)
