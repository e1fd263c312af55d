"""The classes of a certificate: the label of each input, and the classes that it must keep winning against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac.errors import InvalidRequest

NAMES = ("runner-up", "random", "least-likely", "all")
"""The targets with names; all others are numbers of classes."""


def read_labels(label: Any, outputs: Tensor) -> list[int]:
    """One label for each row of `outputs` (batch, classes): the given labels, or the predicted classes.

    Raises InvalidRequest for labels that are not classes, and for a wrong number of them.
    """
    if label is None:
        return [int(k) for k in predicted(outputs)]
    labels = whole_numbers("label", label, outputs.shape[1])
    if len(labels) == 1:
        labels = labels * len(outputs)
    if len(labels) != len(outputs):
        raise InvalidRequest(
            f"there are {len(labels)} labels for {len(outputs)} inputs; give one for each, or one for all"
        )
    return labels


def predicted(outputs: Tensor) -> Tensor:
    """The class of the largest output in each row, or the lowest of several such classes: (batch,)."""
    return (outputs == outputs.amax(1, keepdim=True)).to(torch.uint8).argmax(1)


def check_classes(count: int) -> None:
    """Raises InvalidRequest if a network with so many outputs has no two classes."""
    if count < 2:
        raise InvalidRequest("the network has one output, hence no classes; a certificate needs two or more outputs")


def rivals(target: Any, labels: Sequence[int], outputs: Tensor, seed: int = 0) -> list[tuple[int, ...]]:
    """For each input, the classes that its label must keep winning against.

    target: one of NAMES, a class for all inputs, or one for each.  seed: for random targets.
    Raises InvalidRequest for another name, for a class that does not exist or is the label, and for a single class.
    """
    count = outputs.shape[1]
    check_classes(count)
    if isinstance(target, str) and target not in NAMES:
        raise InvalidRequest(f"the target {target!r} is not known; use {', '.join(NAMES)} or the number of a class")
    if target == "all":
        return [tuple(k for k in range(count) if k != c) for c in labels]
    if isinstance(target, str):
        return [(k,) for k in _named(target, labels, outputs, seed)]
    chosen = whole_numbers("target", target, count)
    chosen = chosen * len(labels) if len(chosen) == 1 else chosen
    if len(chosen) != len(labels):
        raise InvalidRequest(
            f"there are {len(chosen)} targets for {len(labels)} inputs; give one for each, or one for all"
        )
    for i, (c, k) in enumerate(zip(labels, chosen, strict=True)):
        if c == k:
            what = (
                "the label of every input" if labels.count(k) == len(labels) else f"the label of the input in place {i}"
            )
            raise InvalidRequest(f"target {k} is {what}; give another class, or leave that input out")
    return [(k,) for k in chosen]


def _named(target: str, labels: Sequence[int], outputs: Tensor, seed: int) -> list[int]:
    """Never the label, also where outputs are NaN or infinite."""
    if target == "random":
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(len(labels), generator=generator, dtype=torch.float64) * (outputs.shape[1] - 1)
        steps = [min(int(d), outputs.shape[1] - 2) + 1 for d in draws]
        return [(c + step) % outputs.shape[1] for c, step in zip(labels, steps, strict=True)]
    rest = torch.tensor([[k for k in range(outputs.shape[1]) if k != c] for c in labels], device=outputs.device)
    others = outputs.gather(1, rest)
    places = predicted(others if target == "runner-up" else -others).unsqueeze(1)
    return [int(k) for k in rest.gather(1, places)]


def whole_numbers(what: str, value: Any, count: int) -> list[int]:
    """`value` as a list of numbers of classes, 0 to count - 1."""
    try:
        numbers = torch.as_tensor(value).detach().cpu().reshape(-1)
        wide = numbers.to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"the {what} {value!r} is not the number of a class: {error}") from error
    if numbers.dtype == torch.bool or not len(numbers):
        raise InvalidRequest(f"the {what} {value!r} is not the number of a class; give 0 to {count - 1}")
    for number in wide.tolist():
        if not number.is_integer() or not 0 <= number < count:
            raise InvalidRequest(f"the {what} {number:g} does not exist; the network has classes 0 to {count - 1}")
    return [int(v) for v in wide.tolist()]
