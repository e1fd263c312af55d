"""The operations of ONNX files: linear ones are composed, the others become stages (docs/certificates.md)."""

from collections.abc import Sequence
from math import prod
from typing import Any

from flint import arb

from recurjac_check.calls import Call, number, reads
from recurjac_check.errors import OutOfScope
from recurjac_check.functions import ONE, SMOOTH, Elementwise, Pieces, Product, clamp, two_pieces
from recurjac_check.region import ZERO
from recurjac_check.tensors import (
    Form,
    array,
    broadcastable,
    coefficients,
    fits,
    is_constant,
    is_integer,
    scaled,
    stored,
    tensor,
    weighted,
    windows,
)

RELU = Elementwise([two_pieces(ZERO)])
_INFINITE = arb.neg_inf(), arb.pos_inf()
_BITS = {1: 24, 6: 31, 7: 63, 11: 53}
"""Integers that each type of ONNX has all of: those below 2 to this power."""


@reads("Identity", "Dropout", "Cast", "CastLike")
def _identity(call: Call) -> Any:
    whole = is_integer(call.x)
    if call.kind == "CastLike" and (whole or is_integer(call.inputs[1])):
        raise OutOfScope("a cast of or to integers")
    if call.kind == "Dropout" and call.input(2) is not None:
        raise OutOfScope("a dropout that may train")
    if call.kind != "Cast" or (not whole and call.get("to") in (1, 11)):
        return call.x
    if not whole or call.get("to") not in _BITS or any(abs(e) >> _BITS[call.get("to")] for e in call.x.flat):
        raise OutOfScope("a cast to another type, or of an integer that it does not have")
    return call.x if call.get("to") in (6, 7) else array([arb(e) for e in call.x.flat], call.x.shape)


@reads("Constant", "ConstantOfShape")
def _constant(call: Call) -> Any:
    if call.kind == "ConstantOfShape":
        sizes = call.integers("", 0)
        if min(sizes, default=0) < 0:
            raise OutOfScope("a negative size")
        fits(*sizes)
        value = stored(call.get("value")) if "value" in call.attributes else array([ZERO], ())
        return array([number(value) if not is_integer(value) else value.flat[0]] * prod(sizes), sizes)
    ((name, value),) = call.attributes.items()
    if name == "value":
        return stored(value)
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise OutOfScope(name)
    entries = [v if "int" in name else arb(v) for v in (value if name.endswith("s") else [value])]
    return array(entries, (len(entries),) if name.endswith("s") else ())


@reads("Add", "Sub", "Neg", "Sum")
def _add(call: Call) -> Any:
    if call.kind in ("Neg", "Sub"):
        return call.x * -1 if call.kind == "Neg" else call.plus(call.x, call.inputs[1], -1)
    total = call.x
    for x in call.inputs[1:]:
        total = call.plus(total, x)
    return total


@reads("Mul", "Div", "Pow")
def _mul(call: Call) -> Any:
    a, b = call.inputs
    broadcastable(a, b)
    if call.kind == "Pow":
        exponent = number(b)
        if not (exponent == 2 or exponent == 0.5) or b.ndim > a.ndim:
            raise OutOfScope("another exponent than 2 or 1/2")
        return call.activate(a, Elementwise([SMOOTH["Square" if exponent == 2 else "Sqrt"]]))
    if call.kind == "Mul" and call.same and not is_constant(a):
        return call.activate(a, Elementwise([SMOOTH["Square"]]))
    if call.kind == "Div" and is_constant(b):
        return a * array([1 / arb(q) for q in b.flat], b.shape)
    if call.kind == "Div":
        b = call.activate(b, Elementwise([SMOOTH["Reciprocal"]]))
    if is_constant(a) or is_constant(b):
        return a * b
    zeros = [array([ZERO] * t.size, t.shape) for t in (a, b)]
    a, b = tensor(a + zeros[1]), tensor(b + zeros[0])
    return array(call.graph.activate(call.kind, [*a.flat, *b.flat], Product()), a.shape)


@reads("MatMul", "Gemm")
def _matmul(call: Call) -> Any:
    a, b, c = call.x, call.inputs[1], call.input(2)
    if call.kind == "Gemm" and (a.ndim, b.ndim) != (2, 2):
        raise OutOfScope("a tensor that is no matrix")
    a, b = (a.T if call.get("transA") else a), (b.T if call.get("transB") else b)
    rows, columns = a.reshape((1,) * (a.ndim == 1) + a.shape), b.reshape(b.shape + (1,) * (b.ndim == 1))
    n, inner, m = rows.shape[-2], rows.shape[-1], columns.shape[-1]
    depth = max(rows.ndim, columns.ndim)
    batch, other = ((1,) * (depth - t.ndim) + t.shape[:-2] for t in (rows, columns))
    if columns.shape[-2] != inner or (batch != other and prod(other) != 1 and prod(batch) != 1):
        raise OutOfScope("a product of matrices that do not fit")
    fits(max(coefficients(a) * m, coefficients(b) * n), max(prod(batch), prod(other)), times=10)
    left, right = rows.reshape((-1, n, inner)).tolist(), columns.swapaxes(-1, -2).reshape((-1, m, inner)).tolist()
    count = max(len(left), len(right))
    dots = [(r, s) for p in range(count) for r in left[p % len(left)] for s in right[p % len(right)]]
    alpha = arb(call.get("alpha", 1.0))
    if is_constant(a) or is_constant(b):
        first = int(is_constant(a))
        entries = [weighted(zip(dot[first], dot[1 - first], strict=True)) for dot in dots]
    else:
        pre = [e for side in (0, 1) for dot in dots for e in dot[side]]
        h = call.graph.activate(call.kind, pre, Product())
        entries = [weighted((e, ONE) for e in h[i * inner : (i + 1) * inner]) for i in range(len(dots))]
    shape = (batch if prod(batch) > 1 else other) + (n,) * (a.ndim > 1) + (m,) * (b.ndim > 1)
    result = array(entries, shape)
    result = result if alpha == 1 else scaled(result, alpha)
    total = result if c is None else call.plus(result, scaled(c, arb(call.get("beta", 1.0))))
    if total.shape != result.shape:
        raise OutOfScope("a bias of another shape")
    return total


def _windows(call: Call, kernel: Sequence[int]) -> tuple[list[int], list[list[int | None]]]:
    """The windows of a convolution or pooling."""
    call.only(auto_pad="NOTSET", ceil_mode=0, storage_order=0)
    n = len(kernel)
    steps, gaps = call.get("strides", [1] * n), call.get("dilations", [1] * n)
    return windows(call.x.shape[2:], kernel, steps, call.get("pads", [0] * (2 * n)), gaps)


@reads("Conv")
def _conv(call: Call) -> Any:
    x, w, b = call.x, call.inputs[1], call.input(2)
    counts, places = _windows(call, w.shape[2:])
    groups, channels, filters = call.get("group", 1), w.shape[1], w.shape[0]
    if list(call.get("kernel_shape", w.shape[2:])) != list(w.shape[2:]) or (b is not None and b.shape != (filters,)):
        raise OutOfScope("a kernel or a bias of another shape")
    if not is_constant(w) or x.shape[0] != 1 or x.shape[1] != channels * groups or filters % groups:
        raise OutOfScope("a kernel that depends on the input, a batch, or channels that do not fit")
    fits(coefficients(x), filters, *w.shape[2:], times=10)
    fits(filters, channels, *counts, *w.shape[2:], times=10)
    pixels, entries = x.reshape((x.shape[1], -1)).tolist(), []
    for f, kernel in enumerate(w.reshape((filters, channels, -1)).tolist()):
        planes = pixels[f // (filters // groups) * channels :]
        for window in places:
            inside = [(k, at) for k, at in enumerate(window) if at is not None]
            pairs = [(plane[at], taps[k]) for plane, taps in zip(planes, kernel, strict=False) for k, at in inside]
            entries.append(weighted(pairs + ([(b.flat[f], ONE)] if b is not None else [])))
    return array(entries, (1, filters, *counts))


@reads("BatchNormalization")
def _batch_norm(call: Call) -> Any:
    call.only(training_mode=0, spatial=1)
    if call.outputs > 1 or call.x.ndim < 2 or any(t.shape != call.x.shape[1:2] for t in call.inputs[1:]):
        raise OutOfScope("more than one output, or weights that do not fit")
    shape = (-1, *(1 for _ in call.x.shape[2:]))
    scale, shift, mean, variance = (t.reshape(shape) for t in call.inputs[1:])
    epsilon = arb(call.get("epsilon", 9.999999747378752e-06))
    factor = scale * array([1 / (v + epsilon).sqrt() for v in variance.flat], variance.shape)
    return call.x * factor + (shift - mean * factor)


@reads("AveragePool", "GlobalAveragePool")
def _average(call: Call) -> Any:
    x = call.x
    counts, places = _windows(call, x.shape[2:] if call.kind == "GlobalAveragePool" else call.get("kernel_shape"))
    if any(all(at is None for at in window) for window in places):
        raise OutOfScope("a window of padding only")
    entries = []
    for plane in x.reshape((x.shape[0] * x.shape[1], -1)).tolist():
        for window in places:
            inside = [plane[at] for at in window if at is not None]
            share = 1 / arb(len(window) if call.get("count_include_pad") else len(inside))
            entries.append(weighted((e, share) for e in inside))
    return array(entries, (*x.shape[:2], *counts))


@reads("ReduceMean", "ReduceSum")
def _reduce(call: Call) -> Any:
    call.only(noop_with_empty_axes=0)
    x, n = call.x, call.x.ndim
    axes = sorted(call.axis(a, n) for a in call.integers("axes", 1) or range(n))
    rest = [a for a in range(n) if a not in axes]
    size = prod(x.shape[a] for a in axes)
    share = 1 / arb(size) if call.kind == "ReduceMean" else ONE
    sums = [weighted((e, share) for e in part) for part in x.transpose(rest + axes).reshape((-1, size)).tolist()]
    keep = call.get("keepdims", 1)
    return array(sums, [1 if a in axes else x.shape[a] for a in range(n) if keep or a in rest])


@reads("Max", "Min")
def _max(call: Call) -> Any:
    total = call.x
    for x in call.inputs[1:]:
        gap = call.activate(call.plus(x, total, -1), RELU)
        total = tensor(total + gap if call.kind == "Max" else x - gap)
    return total


@reads("MaxPool")
def _max_pool(call: Call) -> Any:
    x = call.x
    counts, places = _windows(call, call.get("kernel_shape"))
    inside = [[at for at in window if at is not None] for window in places]
    if call.outputs > 1 or not all(inside):
        raise OutOfScope("indices, or a window of padding only")
    longest = max(map(len, inside))
    fits(longest, *counts, *x.shape[:2])
    inside = [w + w[-1:] * (longest - len(w)) for w in inside]
    planes = x.reshape((x.shape[0] * x.shape[1], -1)).tolist()
    entries, starts = [e for plane in planes for e in plane], range(0, x.size, len(planes[0]))
    windows = [[{start + w[k]} for start in starts for w in inside] for k in range(longest)]
    parts = [([entries[i] for (i,) in seen], seen) for seen in windows]
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [_joined(call, entries, *a, *b) for a, b in pairs] + (parts[-1:] if len(parts) % 2 else [])
    return array(parts[0][0], (*x.shape[:2], *counts))


def _joined(
    call: Call, entries: list[Any], a: list[Form], seen: list[set[int]], b: list[Form], more: list[set[int]]
) -> Any:
    """The larger one of two parts of each window; there is no kink where a has all entries of b."""
    pairs = [None if q <= p else (sorted(q), sorted(p)) for p, q in zip(seen, more, strict=True)]
    gaps = [arb(-1) if pair is None else q - p for p, q, pair in zip(a, b, pairs, strict=True)]
    tops = call.graph.activate(call.kind, gaps, RELU, entries, pairs)
    return [p + t for p, t in zip(a, tops, strict=True)], [p | q for p, q in zip(seen, more, strict=True)]


@reads("Relu", "LeakyRelu", "Abs", "PRelu", "HardSigmoid", "Clip")
def _pieces(call: Call) -> Any:
    x, functions = call.x, RELU.functions
    if call.kind == "LeakyRelu":
        functions = [two_pieces(arb(call.get("alpha", 0.009999999776482582)))]
    if call.kind == "Abs":
        functions = [Pieces([ZERO], [arb(-1), ONE], [ZERO, ZERO])]
    if call.kind == "PRelu":
        broadcastable(x, call.inputs[1])
        slopes = call.inputs[1] + array([ZERO] * x.size, x.shape)
        if slopes.shape != x.shape or not is_constant(slopes):
            raise OutOfScope("slopes that do not fit")
        functions = [two_pieces(s) for s in slopes.flat]
    if call.kind == "HardSigmoid":
        alpha, beta = arb(call.get("alpha", 0.20000000298023224)), arb(call.get("beta", 0.5))
        x, functions = array([e * alpha + beta for e in x.flat], x.shape), [clamp(ZERO, ONE)]
    if call.kind == "Clip":
        given = [call.get(name, call.input(i)) for i, name in ((1, "min"), (2, "max"))]
        ends = [None if e is None else arb(e) if isinstance(e, float) else number(e) for e in given]
        low, high = (None if e is None or e == end else e for e, end in zip(ends, _INFINITE, strict=True))
        if low is None and high is None:
            return x
        if not all(e is None or (e.is_finite() and e.is_exact()) for e in (low, high)):
            raise OutOfScope("an end that is not a number of the file")
        if low is not None and high is not None and not low < high:
            raise OutOfScope("an empty range")
        functions = [clamp(low, high)]
    return call.activate(x, Elementwise(functions))


@reads("Sigmoid", "Tanh", "Erf", "Gelu", "Softplus", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Atan")
def _smooth(call: Call) -> Any:
    call.only(approximate="none")
    return call.activate(call.x, Elementwise([SMOOTH[call.kind]]))


@reads("Softmax")
def _softmax(call: Call) -> Any:
    """1 / (1 + the sum of exp(z_j - z_i) over all others j of the same group)."""
    n = call.x.ndim
    axis = call.axis(call.get("axis", -1 if call.graph.opset >= 13 else 1), n)
    if call.graph.opset < 13 and axis != n - 1:
        raise OutOfScope("an axis that is not the last one")
    order = sorted(range(n), key=lambda a: a == axis)  # the axis is moved to the end
    x, size = call.x.transpose(order), call.x.shape[axis]
    fits(x.size, size)
    gaps = [q - p for z in x.reshape((-1, size)).tolist() for i, p in enumerate(z) for q in z[:i] + z[i + 1 :]]
    e = list(call.activate(array(gaps, (len(gaps),)), Elementwise([SMOOTH["Exp"]])).flat)
    sums = [weighted((h, ONE) for h in [ONE, *e[i * (size - 1) : (i + 1) * (size - 1)]]) for i in range(x.size)]
    h = call.activate(array(sums, x.shape), Elementwise([SMOOTH["Reciprocal"]]))
    return h.transpose([order.index(a) for a in range(n)])
