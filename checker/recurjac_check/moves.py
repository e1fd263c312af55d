"""The operations of ONNX files that move entries, or compute sizes."""

from collections.abc import Sequence
from math import prod
from typing import Any

from flint import arb

from recurjac_check.calls import Call, number, reads
from recurjac_check.errors import OutOfScope
from recurjac_check.tensors import array, fits, is_integer


@reads("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand")
def _moves(call: Call) -> Any:
    x, n = call.x, call.x.ndim
    if call.kind == "Flatten":
        axis = call.get("axis", 1)
        axis = n if axis == n else call.axis(axis, n)
        return x.reshape((prod(x.shape[:axis]), prod(x.shape[axis:])))
    if call.kind == "Transpose":
        order = call.get("perm", list(range(n))[::-1])
        if sorted(order) != list(range(n)):
            raise OutOfScope("no order of axes")
        return x.transpose(order)
    sizes = call.integers("axes" if "queeze" in call.kind else "shape", 1)
    if call.kind == "Reshape":
        if 0 in sizes:
            call.only(allowzero=0)
        if min(sizes, default=0) < -1:
            raise OutOfScope("a negative size")
        return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(sizes)])
    if call.kind == "Expand":
        if min(sizes, default=0) < 0:
            raise OutOfScope("a negative size")
        fits(prod(sizes))
        return call.plus(x, array([0] * prod(sizes), sizes))
    if sizes == [] or (sizes is None and call.kind == "Unsqueeze"):
        raise OutOfScope("no axes")
    if call.kind == "Squeeze":
        axes = [call.axis(a, n) for a in sizes] if sizes else [i for i, s in enumerate(x.shape) if s == 1]
        return x.reshape([s for i, s in enumerate(x.shape) if i not in axes])
    axes, rest = [call.axis(a, n + len(sizes)) for a in sizes], iter(x.shape)
    if len(set(axes)) < len(axes):
        raise OutOfScope("an axis twice")
    return x.reshape([1 if i in axes else next(rest) for i in range(n + len(axes))])


def joined(parts: Sequence[Any], axis: int) -> Any:
    """Tensors side by side along an axis."""
    fits(sum(t.size for t in parts))
    if len({(t.ndim, *t.shape[:axis], *t.shape[axis + 1 :]) for t in parts}) > 1:
        raise OutOfScope("shapes that do not fit")
    first = [t.swapaxes(0, axis) for t in parts]
    entries = [e for t in first for e in t.flat]
    return array(entries, (sum(len(t) for t in first), *first[0].shape[1:])).swapaxes(0, axis)


@reads("Pad")
def _pad(call: Call) -> Any:
    call.only(mode="constant")
    x, pads = call.x, call.integers("pads", 1)
    filler = number(call.input(2)) if call.input(2) is not None else arb(call.get("value", 0.0))
    if len(pads) != 2 * x.ndim or min(pads) < 0 or call.input(3) is not None:
        raise OutOfScope("a negative padding, or some axes only")
    for a in range(x.ndim):
        fits(*x.shape[:a], x.shape[a] + pads[a] + pads[a + x.ndim], *x.shape[a + 1 :])
        shapes = [(*x.shape[:a], pads[a + i], *x.shape[a + 1 :]) for i in (0, x.ndim)]
        before, after = (array([filler] * prod(s), s) for s in shapes)
        x = joined([before, x, after], a)
    return x


@reads("Shape", "Gather", "Slice", "Concat", "Split")
def _parts(call: Call) -> Any:
    x, axis = call.x, call.get("axis", 0)
    if call.kind == "Shape":
        sizes = list(x.shape)[call.get("start", 0) : call.get("end")]
        return array(sizes, (len(sizes),))
    if call.kind == "Gather":
        if not is_integer(call.inputs[1]):
            raise OutOfScope("indices that are not integers")
        fits(call.inputs[1].size, x.size // max(1, x.shape[axis]))
        return x.take(call.inputs[1].astype(int), axis)
    if call.kind == "Concat":
        return joined(call.inputs, call.axis(axis, x.ndim))
    if call.kind == "Split":
        sizes = call.integers("split", 1) or [x.shape[axis] // call.outputs] * call.outputs
        if sum(sizes) != x.shape[axis] or min(sizes) < 0 or len(sizes) != call.outputs:
            raise OutOfScope("sizes that do not fit")
        call.only(num_outputs=call.outputs)
        return [x.take(range(sum(sizes[:i]), sum(sizes[: i + 1])), axis) for i in range(len(sizes))]
    starts, ends = call.integers("starts", 1), call.integers("ends", 2)
    axes, steps = call.integers("axes", 3) or range(len(starts)), call.integers("steps", 4) or [1] * len(starts)
    if len({call.axis(a, x.ndim) for a in axes}) < len(axes):
        raise OutOfScope("an axis twice")
    for start, end, a, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and start < -x.shape[a]:
            raise OutOfScope("a first entry before the first one")
        stop = None if step < 0 and end < -x.shape[a] else end
        x = x.take(range(x.shape[a])[slice(start, stop, step)], a)
    return x
