"""Results as rows, arrays and HTML: one mechanism for all of them, which reads the fields of the dataclass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from html import escape
from itertools import islice, product
from math import nan
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

Row = dict[str, Any]
"""The values of one entry of a result, by the names of the fields."""
_FIRST = ("radius", "upper")
"""The fields that say how many rows there are: one for each of their entries."""
_SHOWN = 12
"""The number of rows of an HTML table."""


def arrays(result: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of a result as an array, by the name of its field; those of a tuple are numbered from 1."""
    found = {}
    for name, value in _values(result).items():
        if isinstance(value, Tensor):
            found[name] = _array(value)
        elif _tensors(value):
            found.update({f"{name}_{i}": _array(each) for i, each in enumerate(value, 1)})
    return found


def rows(result: Any, apart: Sequence[str] = ()) -> Iterator[Row]:
    """One row for each entry of the result's main field, with its place and what else is known of the entry.

    sample: the number in the batch.  stage: of pre-activations, from 1.  axis_1, axis_2, …: the place in the entry.
    apart: fields whose shape may be that of the main field by chance.
    """
    values = {k: v for k, v in _values(result).items() if k not in apart}
    tuples = {k: v for k, v in values.items() if _tensors(v)}
    parts = [(i, of) for i, each in enumerate(values.get("points", ())) if not isinstance(each, Tensor) for of in each]
    if parts:  # several objects for each sample
        yield from ({"sample": i, **{k: _scalar(v) for k, v in _flat(of).items()}} for i, of in parts)
    elif any(isinstance(v, Tensor) for v in values.values()):
        yield from _entries(values)
    else:
        for k in range(max((len(v) for v in tuples.values()), default=0)):
            for row in _entries({name: v[k] for name, v in tuples.items()}):
                yield {"sample": row.pop("sample"), "stage": k + 1, **row}


def gap(result: Any) -> float:
    """The largest difference of `upper` and `lower`, infinite where one is; NaN without both."""
    found = arrays(result)
    pairs = [(found[name.replace("upper", "lower", 1)], u) for name, u in found.items()
             if name.startswith("upper") and name.replace("upper", "lower", 1) in found]  # fmt: skip
    gaps = [float(np.where(u == low, 0.0, u - low).max()) for low, u in pairs if u.size]
    return max(gaps, default=nan)


def table(title: str, every: Iterator[Row], remarks: Mapping[str, str]) -> str:
    """The first rows as an HTML table, with remarks below it."""
    found = list(islice(every, _SHOWN))
    head = "".join(f"<th>{escape(name)}</th>" for name in (found[0] if found else ()))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(value))}</td>" for value in row.values()) + "</tr>" for row in found
    )
    more = "<p>and more rows</p>" if next(every, None) is not None else ""
    notes = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in remarks.items() if text)
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if found else ""
    return f"<div><strong>{escape(title)}</strong>{grid}{more}<ul>{notes}</ul></div>"


def _values(result: Any) -> Row:
    return {f.name: getattr(result, f.name) for f in fields(result) if f.compare or f.repr}


def _tensors(value: object) -> TypeGuard[tuple[Tensor, ...]]:
    return isinstance(value, tuple) and bool(value) and all(isinstance(each, Tensor) for each in value)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()


def _entries(values: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of tensors of one shape, with what there is one of for each sample, and what there is one of in all."""
    tensors = {k: _array(v) for k, v in values.items() if isinstance(v, Tensor)}
    main = next((tensors[k] for k in _FIRST if k in tensors), None)
    shape = next(iter(tensors.values())).shape if main is None else main.shape
    batch, axes = shape[0], [f"axis_{i}" for i in range(1, len(shape))]
    entry = {k: v for k, v in tensors.items() if v.shape == shape}
    sample = {k: v for k, v in tensors.items() if v.shape == (batch,) and k not in entry}
    words = {
        k: v for k, v in values.items()
        if isinstance(v, tuple) and len(v) == batch and all(isinstance(each, str | int | float) for each in v)
    }  # fmt: skip
    once = {k: v for k, v in values.items() if isinstance(v, str | int | float)}
    for at in product(*map(range, shape)):
        yield {
            "sample": at[0],
            **dict(zip(axes, at[1:], strict=True)),
            **{k: v[at].item() for k, v in entry.items()},
            **{k: v[at[0]].item() for k, v in sample.items()},
            **{k: v[at[0]] for k, v in words.items()},
            **once,
        }


def _flat(value: Any) -> Row:
    """The fields of an object and of the objects in it."""
    found: Row = {}
    for name, each in _values(value).items():
        inner = _flat(each) if is_dataclass(each) and not isinstance(each, type) else None
        found |= {name: each} if inner is None else {f"{name}_{k}": v for k, v in inner.items()}
    return found


def _scalar(value: Any) -> Any:
    """A value of a row: a number or a word, or a list of numbers."""
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    return value.value if isinstance(value, Enum) else value


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
