"""The operations of ONNX files: linear ones are composed, the others become stages (docs/certificates.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from flint import arb

from recurjac_check.errors import OutOfScope
from recurjac_check.functions import ONE, SMOOTH, Elementwise, Pieces, Product, Softmax, clamp, two_pieces
from recurjac_check.region import ZERO
from recurjac_check.tensors import (
    Form,
    array,
    broadcastable,
    coefficients,
    fits,
    is_constant,
    stored,
    weighted,
    windows,
)

RELU = Elementwise([two_pieces(ZERO)])


@dataclass(frozen=True)
class Call:
    """A node: its kind, its inputs (None where one is left out) and attributes, and how many outputs it has."""

    graph: Any
    kind: str
    inputs: list[Any]
    attributes: dict[str, Any]
    same: bool
    outputs: int

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    def input(self, i: int) -> Any:
        """The i-th input, or None."""
        return self.inputs[i] if i < len(self.inputs) else None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def only(self, **expected: Any) -> None:
        """Raise OutOfScope where an attribute has another value than this one."""
        for name, value in expected.items():
            if self.get(name, value) not in (value, str(value).encode()):
                raise OutOfScope(f"{name} = {self.attributes[name]}")

    def integers(self, name: str, i: int) -> Any:
        """A list of integers, which newer files have as an input and older ones as an attribute, or None."""
        given = self.input(i)
        values = self.get(name) if given is None else list(given.flat)
        if values is not None and not all(isinstance(v, int) for v in values):
            raise OutOfScope(f"{name} is not known")
        return values

    def plus(self, a: Any, b: Any, sign: int = 1) -> Any:
        """a + b or a - b."""
        broadcastable(a, b)
        return a + b if sign > 0 else a - b

    def activate(self, x: Any, function: Any) -> Any:
        """A stage of the same shape; constants are enclosed."""
        if is_constant(x):
            ends = [arb(e) for e in x.flat]
            low, high = function.image([e.lower() for e in ends], [e.upper() for e in ends])
            return array([l if l == u else l.union(u) for l, u in zip(low, high, strict=True)], x.shape)
        return array(self.graph.activate(self.kind, list(x.flat), function), x.shape)


READERS: dict[str, Callable[[Call], Any]] = {}


def reads(*names: str) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register a reader for these operations."""

    def register(f: Callable[[Call], Any]) -> Callable[[Call], Any]:
        READERS.update(dict.fromkeys(names, f))
        return f

    return register


def number(x: Any) -> arb:
    """The only entry of a constant."""
    if x.size != 1 or not is_constant(x):
        raise OutOfScope("a parameter that is not one number")
    return arb(x.flat[0])


@reads("Identity", "Dropout", "Cast", "CastLike")
def _identity(call: Call) -> Any:
    if call.kind == "CastLike":
        return call.x * array([ONE], (1,))
    floats = not all(isinstance(e, int) for e in call.x.flat)
    if call.kind == "Cast" and call.get("to") not in (1, 11) and (floats or call.get("to") not in (6, 7)):
        raise OutOfScope("a cast to another type")
    if call.kind == "Dropout" and call.input(2) is not None:
        raise OutOfScope("a dropout that may train")
    return call.x if floats or call.get("to") not in (1, 11) else array([arb(e) for e in call.x.flat], call.x.shape)


@reads("Constant", "ConstantOfShape")
def _constant(call: Call) -> Any:
    if call.kind == "ConstantOfShape":
        fits(*call.x.flat)
        value = stored(call.get("value")).flat[0] if "value" in call.attributes else ZERO
        return array([value] * prod(call.x.flat), list(call.x.flat))
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
        if number(b) != 2 and number(b) != 0.5:
            raise OutOfScope("another exponent than 2 or 1/2")
        return call.activate(a, Elementwise([SMOOTH["Square" if number(b) == 2 else "Sqrt"]]))
    if call.kind == "Mul" and call.same and not is_constant(a):
        return call.activate(a, Elementwise([SMOOTH["Square"]]))
    if call.kind == "Div" and all(isinstance(e, int) for e in b.flat):
        raise OutOfScope("a quotient of integers")
    if call.kind == "Div" and is_constant(b):
        return a * array([1 / arb(q) for q in b.flat], b.shape)
    if call.kind == "Div":
        b = call.activate(b, Elementwise([SMOOTH["Reciprocal"]]))
    if is_constant(a) or is_constant(b):
        return a * b
    zero = array([0], (1,))
    a, b = a + zero * b, b + zero * a
    return array(call.graph.activate(call.kind, [*a.flat, *b.flat], Product()), a.shape)


@reads("MatMul", "Gemm")
def _matmul(call: Call) -> Any:
    a, b, c = call.x, call.inputs[1], call.input(2)
    a, b = (a.T if call.get("transA") else a), (b.T if call.get("transB") else b)
    rows, columns = a.reshape((1,) * (a.ndim == 1) + a.shape), b.reshape(b.shape + (1,) * (b.ndim == 1))
    n, inner, m = rows.shape[-2], rows.shape[-1], columns.shape[-1]
    batch, other = rows.shape[:-2], columns.shape[:-2]
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
    shape = (batch if prod(batch) > 1 or len(batch) > len(other) else other) + (n,) * (a.ndim > 1) + (m,) * (b.ndim > 1)
    result = array(entries, shape)
    result = result if alpha == 1 else result * array([alpha], (1,))
    return result if c is None else result + c * array([arb(call.get("beta", 1.0))], (1,))


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
    shape = (-1, *(1 for _ in call.x.shape[2:]))
    scale, shift, mean, variance = (t.reshape(shape) for t in call.inputs[1:])
    epsilon = arb(call.get("epsilon", 9.999999747378752e-06))
    factor = scale * array([1 / (v + epsilon).sqrt() for v in variance.flat], variance.shape)
    return call.x * factor + (shift - mean * factor)


@reads("AveragePool", "GlobalAveragePool")
def _average(call: Call) -> Any:
    x = call.x
    counts, places = _windows(call, call.get("kernel_shape") or x.shape[2:])
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
    axes = sorted(a % n for a in call.integers("axes", 1) or range(n))
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
        total = total + gap if call.kind == "Max" else x - gap
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
    parts = [([plane[w[k]] for plane in planes for w in inside], [{w[k]} for w in inside]) for k in range(longest)]
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [_joined(call, *a, *b) for a, b in pairs] + (parts[-1:] if len(parts) % 2 else [])
    return array(parts[0][0], (*x.shape[:2], *counts))


def _joined(call: Call, a: list[Form], seen: list[set[int]], b: list[Form], more: list[set[int]]) -> Any:
    """The larger one of two parts of each window; there is no kink where a has all entries of b."""
    needless = [q <= p for p, q in zip(seen, more, strict=True)]
    gaps = [arb(-1) if needless[i % len(seen)] else q - p for i, (p, q) in enumerate(zip(a, b, strict=True))]
    tops = call.graph.activate(call.kind, gaps, RELU)
    return [p + t for p, t in zip(a, tops, strict=True)], [p | q for p, q in zip(seen, more, strict=True)]


@reads("Relu", "LeakyRelu", "Abs", "PRelu", "HardSigmoid", "Clip")
def _pieces(call: Call) -> Any:
    x, functions = call.x, RELU.functions
    if call.kind == "LeakyRelu":
        functions = [two_pieces(arb(call.get("alpha", 0.009999999776482582)))]
    if call.kind == "Abs":
        functions = [Pieces([ZERO], [arb(-1), ONE], ZERO)]
    if call.kind == "PRelu":
        broadcastable(x, call.inputs[1])
        slopes = call.inputs[1] + array([ZERO] * x.size, x.shape)
        if slopes.shape != x.shape or not is_constant(slopes):
            raise OutOfScope("slopes that do not fit")
        functions = [two_pieces(s) for s in slopes.flat]
    if call.kind == "HardSigmoid":
        alpha, beta = arb(call.get("alpha", 0.20000000298023224)), arb(call.get("beta", 0.5))
        x, functions = x * array([alpha], (1,)) + array([beta], (1,)), [clamp(ZERO, ONE)]
    if call.kind == "Clip":
        given = [call.get(name, call.input(i)) for i, name in ((1, "min"), (2, "max"))]
        ends = [None if e is None else arb(e) if isinstance(e, float) else number(e) for e in given]
        low, high = (None if e is None or abs(e) >= 3.4028234e38 else e for e in ends)
        if low is None and high is None:
            return x
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
    n = call.x.ndim
    axis = call.get("axis", -1 if call.graph.opset >= 13 else 1) % n
    if call.graph.opset < 13 and axis != n - 1:
        raise OutOfScope("an axis that is not the last one")
    fits(call.x.size, call.x.shape[axis])
    return call.activate(call.x.swapaxes(axis, n - 1), Softmax(call.x.shape[axis])).swapaxes(axis, n - 1)


@reads("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand")
def _moves(call: Call) -> Any:
    x, n = call.x, call.x.ndim
    if call.kind == "Flatten":
        axis = call.get("axis", 1)
        return x.reshape((prod(x.shape[:axis]), -1))
    if call.kind == "Transpose":
        return x.transpose(call.get("perm", list(range(n))[::-1]))
    sizes = call.integers("axes" if "queeze" in call.kind else "shape", 1)
    if call.kind == "Reshape":
        if 0 in sizes:
            call.only(allowzero=0)
        return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(sizes)])
    if call.kind == "Expand":
        fits(prod(sizes))
        return x + array([0] * prod(sizes), sizes)
    if call.kind == "Squeeze":
        axes = [a % n for a in sizes] if sizes else [i for i, s in enumerate(x.shape) if s == 1]
        return x.reshape([s for i, s in enumerate(x.shape) if i not in axes])
    axes, rest = [a % (n + len(sizes)) for a in sizes], iter(x.shape)
    return x.reshape([1 if i in axes else next(rest) for i in range(n + len(axes))])


def joined(parts: Sequence[Any], axis: int) -> Any:
    """Tensors side by side along an axis."""
    fits(sum(t.size for t in parts))
    first = [t.swapaxes(0, axis) for t in parts]
    entries = [e for t in first for e in t.flat]
    return array(entries, (sum(len(t) for t in first), *first[0].shape[1:])).swapaxes(0, axis)


@reads("Pad")
def _pad(call: Call) -> Any:
    call.only(mode="constant")
    x, pads = call.x, call.integers("pads", 1)
    filler = number(call.input(2)) if call.input(2) is not None else arb(call.get("value", 0.0))
    if min(pads) < 0 or call.input(3) is not None:
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
        fits(call.inputs[1].size, x.size // max(1, x.shape[axis]))
        return x.take(call.inputs[1].astype(int), axis)
    if call.kind == "Concat":
        return joined(call.inputs, axis)
    if call.kind == "Split":
        sizes = call.integers("split", 1) or [x.shape[axis] // call.outputs] * call.outputs
        if sum(sizes) != x.shape[axis]:
            raise OutOfScope("sizes that do not fit")
        return [x.take(range(sum(sizes[:i]), sum(sizes[: i + 1])), axis) for i in range(len(sizes))]
    starts, ends = call.integers("starts", 1), call.integers("ends", 2)
    axes, steps = call.integers("axes", 3) or range(len(starts)), call.integers("steps", 4) or [1] * len(starts)
    for start, end, a, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -x.shape[a] else end
        x = x.take(range(x.shape[a])[slice(start, stop, step)], a)
    return x
