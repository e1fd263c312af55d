"""Quadratic bounds: what they prove is true, wrong multipliers are refused, and wrong constants would be noticed."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from flint import arb, arb_mat, ctx
from onnx import helper

from producer import ball, certificate, dense, encoded, everything, model, unit
from recurjac_check import check_bytes, network, quadratic, region
from recurjac_check.affine import Affine, Matrix
from recurjac_check.functions import SMOOTH, Pieces, Product, clamp, two_pieces
from recurjac_check.quadratic import definite, diagonal, exact
from recurjac_check.witness import Leaf

CENTER, RADIUS = [0.13, -0.21, 0.34], 0.25
DATA = dense([3, 6, 6, 6, 2], 10)
ROOM, LITTLE = 1 + 2.0**-30, 1 + 2.0**-44
STEEP = {"lower_slope": [(-9.0).hex()] * 6, "upper_slope": [(9.0).hex()] * 6}  # lines that prove next to nothing
Array = np.ndarray[Any, np.dtype[np.float64]]
Forgery = tuple[str, Callable[[Any], Any], str]


def layers(data: bytes = DATA) -> list[tuple[Array, Array]]:
    """Weights (in, out) and biases of each layer."""
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(data).graph.initializer}
    return [(values[f"w{k}"], values[f"b{k}"]) for k in range(len(values) // 2)]


def chain(slopes: list[tuple[Array, Array]], start: Array, share: float = 2.0) -> tuple[list[Array], Array]:
    """Multipliers of a P-chain and its G for the layer after these slopes, in plain floating point."""
    weights, p, found = [w for w, _ in layers()], np.diag(start), []
    for w, (low, high) in zip(weights, slopes, strict=False):
        q, m, r = w.T @ p @ w, (low + high) / 2, (high - low) / 2
        u = np.flatnonzero(r)
        t = np.zeros(len(r))
        if len(u):
            t[u] = share * np.linalg.eigvalsh(q[np.ix_(u, u)])[-1]
            q = q + q[:, u] @ np.linalg.solve(np.diag(t[u]) - q[np.ix_(u, u)], q[u])
        p = np.diag(m) @ q @ np.diag(m) + np.diag(t * r**2)
        found.append(t)
    w = weights[len(slopes)]
    return found, w.T @ p @ w


def values(x: Array) -> list[Array]:
    """The pre-activations of all layers at points (n, 3)."""
    found = []
    for w, b in layers():
        found.append(x @ w + b)
        x = np.maximum(found[-1], 0)
    return found


def hexed(numbers: Any) -> list[str]:
    return [float(v).hex() for v in numbers]


def written(weights: Array | None, multipliers: list[Array]) -> Any:
    return {"weights": None if weights is None else hexed(weights), "multipliers": [hexed(t) for t in multipliers]}


def first(norm: str) -> tuple[Array, Array]:
    """The ends of the first layer, with a little room."""
    (w, b), p = layers()[0], 1 if norm == "inf" else 2
    middle, half = np.array(CENTER) @ w + b, RADIUS * LITTLE * np.linalg.norm(w, p, axis=0)
    return middle - half, middle + half


def around(known: tuple[Array, Array], k: int) -> tuple[Array, Array]:
    """The ends of layer k by interval arithmetic, with a little room."""
    low, high = (np.maximum(z, 0) for z in known)
    (w, b), half = layers()[k], (high - low) / 2 * LITTLE
    middle = (low + high) / 2 @ w + b
    return middle - half @ abs(w), middle + half @ abs(w)


def proved(leaf: Any, where: Any, k: int, chains: bool = True) -> tuple[Array, Array]:
    """What the checker proves of layer k from the ranges of those before it, with a little room."""
    tried = copy.deepcopy(leaf)
    tried["values"]["stages"][k:] = [None] * (3 - k)
    tried["values"]["quadratic"][k:] = [tried["values"]["quadratic"][k] if chains else None] + [None] * (3 - k)
    with ctx.workprec(128):
        net = network.load(DATA)
        own = Leaf(net, region.read(where, 3), tried, "leaf")
        affine = net.outputs if k == 3 else net.stages[k].pre
        known = replace(own.values, nodes=own.values.nodes[:k])
        sides = zip(own.ends(known, affine), known.bounds(affine), strict=True)
        low, high = (np.array([[float(v) for v in side] for side in pair]) for pair in sides)
    low, high = low.max(0), high.min(0)
    return low - abs(low) * (ROOM - 1), high + abs(high) * (ROOM - 1)


@cache
def valid(norm: str = "inf") -> Any:
    """A certificate whose ranges, outputs and norms are proved by P-chains only."""
    found = everything(DATA, ball(CENTER, RADIUS, norm))
    leaf, w = found["parts"][0], None if norm == "2" else np.full(3, 1 / 3)
    start = np.full(3, RADIUS**2) * (1 if w is None else 3)
    centre, proofs, known = [z[0] for z in values(np.array([CENTER]))], [], []
    for k in range(4):
        secants = [secant(l, u, c) for (l, u), c in zip(known, centre, strict=False)]
        t, gram = chain(secants, start)
        half = np.sqrt(np.diag(gram)) * ROOM
        proofs.append(written(w, t))
        if k < 3:
            ends = around(known[-1], k) if known else first(norm)
            ends = np.maximum(ends[0], centre[k] - half), np.minimum(ends[1], centre[k] + half)
            leaf["values"]["stages"][k] = {"lower": hexed(ends[0]), "upper": hexed(ends[1]), **STEEP}
            known.append(ends)
    leaf["values"]["quadratic"], leaf["gradients"] = proofs, []
    low, high = proved(leaf, found["region"], 3)
    claims = [{"kind": "output", "row": unit(i), "lower": hexed(low)[i], "upper": hexed(high)[i]} for i in range(2)]
    slopes = [((l > 0).astype(float), (u >= 0).astype(float)) for l, u in known]
    t, gram = chain(slopes, np.ones(3) if w is None else 1 / w)
    leaf["tangents"] = written(w, t)
    rows, lengths = [unit(0), unit(1)], np.sqrt(np.diag(gram))
    both = np.sqrt(np.linalg.eigvalsh(gram)[-1])
    for q, size in (("inf", lengths.max()), ("2", both), ("1", min(lengths.sum(), both * np.sqrt(2)))):
        upper = (float(size) * ROOM).hex()
        claims.append({"kind": "lipschitz", "rows": rows, "from": norm, "to": q, "by": "tangents", "upper": upper})
    return certificate(DATA, found["region"], claims, [leaf])


def secant(low: Array, high: Array, at: Array) -> tuple[Array, Array]:
    """The ranges of slopes of secants of a ReLU, which is convex."""
    ends = [(np.maximum(z, 0) - np.maximum(at, 0)) / (z - at) for z in (low, high)]
    known = [np.where(low > 0, 1.0, 0.0), np.where(high < 0, 0.0, 1.0)]
    return np.where(known[0] == known[1], known[0], ends[0]), np.where(known[0] == known[1], known[1], ends[1])


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_what_is_proved_is_accepted_and_needs_its_multipliers(norm: str) -> None:
    assert check_bytes(encoded(valid(norm)), DATA).text == "valid"
    without = copy.deepcopy(valid(norm))
    without["parts"][0]["values"]["quadratic"][2] = None
    assert "claim 0 (output): parts[0].values.stages[2]" in check_bytes(encoded(without), DATA).text


def put(keys: list[Any], new: Any) -> Callable[[Any], Any]:
    """A certificate with one entry replaced."""

    def change(value: Any) -> Any:
        inner = value
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = new(inner[keys[-1]]) if callable(new) else new
        return value

    return change


def multipliers(path: list[Any]) -> list[str]:
    """Those of the second stage of a chain."""
    value = valid()
    for key in [*path, "multipliers", 1]:
        value = value[key]
    return value  # type: ignore[no-any-return]


def less(share: float) -> Callable[[str], str]:
    return lambda text: (float.fromhex(text) * (1 - share)).hex()


def forgeries() -> Iterator[Forgery]:
    """Multipliers that prove nothing or something else, and claims beyond what they prove."""
    leaf, ranges = ["parts", 0], "parts[0].values.quadratic[3]"
    own = [*leaf, "values", "quadratic"]
    places = (([*own, 3], ranges, 0), ([*leaf, "tangents"], "parts[0].tangents", 2))
    for path, where, claim in places:
        first, prefix = [*path, "multipliers", 1], f"claim {claim} "
        yield f"small-{claim}", put(first, lambda t: [less(0.9)(v) for v in t]), f"{where}.multipliers[1]: T - Z"
        unknown = [float.fromhex(v) > 0 for v in multipliers(path)].index(True)
        yield f"negative-{claim}", put([*first, unknown], less(2.0)), f"{where}.multipliers[1]: T - Z"
        yield f"zero-{claim}", put(first, ["0x0p+0"] * 6), f"{where}.multipliers[1]: T - Z"
        yield f"none-{claim}", put(first, None), f"{where}.multipliers[1]: T - Z"
        yield f"large-{claim}", put(first, lambda t: [(float.fromhex(v) * 1e3).hex() for v in t]), prefix
        yield f"short-{claim}", put(first, lambda t: t[:-1]), f"{where}.multipliers[1] is not a list of 6"
        yield f"fewer-{claim}", put([*path, "multipliers"], lambda t: t[:-1]), f"{where}.multipliers is not a list of 3"
        yield f"key-{claim}", put([*path, "t"], 1), f"{where} is not an object with the keys"
        yield f"number-{claim}", put(path, 3), f"{where} is not an object with the keys"
        for bad in ("nan", "inf", 1.5, None, True):
            said = "hexadecimal" if isinstance(bad, float) else f"{where}.multipliers[1]"
            yield f"multiplier-{claim}-{bad}", put([*first, 2], bad), said
        yield f"no-weights-{claim}", put([*path, "weights"], None), "weights"
        for bad in ("0x0p+0", "-0x1p-2"):
            yield f"weight-{claim}-{bad}", put([*path, "weights", 1], bad), f"{where}.weights are not positive"
        yield f"weight-nan-{claim}", put([*path, "weights", 1], "nan"), f"{where}.weights"
        yield f"weights-{claim}", put([*path, "weights"], lambda w: w[:-1]), f"{where}.weights is not a list of 3"
        uneven = put([*path, "weights", 1], "0x1p-20")
        yield f"uneven-{claim}", uneven, prefix
    yield "no-tangents", put([*leaf, "tangents"], None), "claim 2 (lipschitz): parts[0].tangents is null"
    yield "no-outputs", put(own, lambda v: v[:-1]), "parts[0].values.quadratic is not a list of 4"
    yield "null-outputs", put([*own, 3], None), "claim 0 (output)"
    yield "by", put(["claims", 2, "by"], "quadratic"), "claim 2 (lipschitz): by"
    yield "swapped", put(own, lambda v: [v[0], v[1], v[3], v[2]]), "multipliers is not a list"
    for i in (2, 3, 4):
        yield f"norm-{i}", put(["claims", i, "upper"], less(1e-7)), f"claim {i} (lipschitz)"
        yield f"other-norm-{i}", put(["claims", i, "upper"], "0x0p+0"), f"claim {i} (lipschitz)"
    for i in (0, 1):
        gap = abs(float.fromhex(valid()["claims"][i]["upper"]) - float.fromhex(valid()["claims"][i]["lower"])) * 1e-6
        for key, by in (("lower", gap), ("upper", -gap)):
            closer = put(["claims", i, key], lambda v, by=by: (float.fromhex(v) + by).hex())
            yield f"output-{i}-{key}", closer, f"claim {i} (output)"
    stage = valid()["parts"][0]["values"]["stages"][2]
    _, most = proved(valid()["parts"][0], valid()["region"], 2, chains=False)
    for i in range(6):
        low, high = float.fromhex(stage["lower"][i]), float.fromhex(stage["upper"][i])
        if high < most[i]:
            nearer = put([*leaf, "values", "stages", 2, "upper", i], (high - 1e-6 * (high - low)).hex())
            yield f"range-{i}", nearer, f"claim 0 (output): parts[0].values.stages[2]: upper end {i}"


FORGERIES = [*forgeries()]


@pytest.mark.parametrize(("change", "where"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES])
def test_a_forgery_is_refused_with_what_fails(change: Callable[[Any], Any], where: str) -> None:
    verdict = check_bytes(encoded(change(copy.deepcopy(valid()))), DATA)
    assert verdict.code == 1
    assert where in verdict.text


def test_the_norm_of_a_larger_ball_needs_its_own_weights() -> None:
    euclidean = copy.deepcopy(valid("2"))
    euclidean["claims"] = [{**euclidean["claims"][2], "from": p} for p in ("1", "2")]
    assert check_bytes(encoded(euclidean), DATA).text == "valid"  # the ball of the 1-norm lies in that of the 2-norm
    euclidean["claims"][0]["from"] = "inf"
    assert "parts[0].tangents has no weights" in check_bytes(encoded(euclidean), DATA).text


def test_a_multiplier_is_enough_from_the_next_number_on() -> None:
    """T - Z of one row is positive as soon as it is not 0."""
    with ctx.workprec(128):
        z = arb_mat(1, 1, [arb(0.7)])
        assert not definite(diagonal([arb(0.7)]) - z)
        assert definite(diagonal([arb(float(np.nextafter(0.7, 1)))]) - z)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
def test_definite_matrices_are_told_from_others(n: int) -> None:
    random = np.random.default_rng(n)
    with ctx.workprec(128):
        for _ in range(20):
            a = random.integers(-4, 5, (n, n)).astype(float)
            gram, shift = a @ a.T, float(random.choice([0.0, 2.0**-20, -(2.0**-20)]))
            least = np.linalg.eigvalsh(gram)[0]
            matrix = arb_mat(n, n, [arb(v) for v in (gram + shift * np.eye(n)).flat])
            if least + shift > 2.0**-30 or least + shift < -(2.0**-30):
                assert definite(matrix) == bool(least + shift > 0)
            wide = matrix + arb_mat(n, n, [arb(0, 100 + abs(least)) for _ in range(n * n)])
            assert not definite(wide)
        assert not definite(arb_mat(n, n, [arb.nan()] * (n * n)))


def test_an_exact_matrix_is_above_all_of_a_ball() -> None:
    random = np.random.default_rng(3)
    with ctx.workprec(128):
        for n in (1, 2, 5):
            mid, rad = random.normal(size=(n, n)), random.random((n, n))
            mid, rad = mid + mid.T, rad + rad.T
            found = exact(arb_mat(n, n, [arb(m, r) for m, r in zip(mid.flat, rad.flat, strict=True)]))
            above = np.array([float(v) for v in found.entries()]).reshape(n, n)
            for signs in random.choice([-1.0, 1.0], (50, n, n)):
                other = mid + np.triu(signs * rad) + np.triu(signs * rad, 1).T
                assert np.linalg.eigvalsh(above - other)[0] > -1e-12


def refuted(norm: str) -> bool:
    """Whether what the checker accepts of the certificate with all ends moved inwards is false at some point."""
    random = np.random.default_rng(0)
    steps = random.uniform(-1, 1, (4000, 3))
    steps = np.sign(steps) if norm == "inf" else steps / np.linalg.norm(steps, axis=1, keepdims=True)
    true = values(np.array(CENTER) + RADIUS * steps * random.choice([1.0, 0.5], (4000, 1)))[-1]
    for share in np.linspace(1, 0.05, 20):
        tried = copy.deepcopy(valid(norm))
        tried["parts"][0]["values"]["stages"] = [None] * 3
        claims = tried["claims"][:2]
        for i, claim in enumerate(claims):
            middle = values(np.array([CENTER]))[-1][0, i]
            for key in ("lower", "upper"):
                claim[key] = float(middle + share * (float.fromhex(claim[key]) - middle)).hex()
        tried["claims"] = claims
        if check_bytes(encoded(tried), DATA).code:
            return False
        ends = [(float.fromhex(c["lower"]), float.fromhex(c["upper"])) for c in claims]
        if any((true[:, i] < l).any() or (true[:, i] > u).any() for i, (l, u) in enumerate(ends)):
            return True
    return True


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_nothing_that_is_accepted_is_false_at_a_point(norm: str) -> None:
    assert not refuted(norm)


def single(upper: float) -> tuple[bytes, bytes]:
    """The claim that the norm of the Jacobian of relu(x_0 + x_1), from l_inf, is at most `upper`; it is 2."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["h"])]
    data, where = model(nodes, {"w": np.ones((2, 1))}, (1, 2)), ball([0.0, 0.0], 1.0)
    claim = {"kind": "lipschitz", "rows": [unit(0)], "from": "inf", "to": "inf", "by": "tangents", "upper": upper.hex()}
    tangents = {"weights": hexed([3, 3]), "multipliers": [hexed([8])]}
    leaf = {"values": {"stages": [None], "quadratic": None}, "gradients": [], "tangents": tangents, "halfspaces": []}
    return encoded(certificate(data, where, [claim], [leaf])), data


def test_one_neuron_is_bounded_exactly() -> None:
    assert check_bytes(*single(2.0)).text == "valid"
    assert "claim 0 (lipschitz): parts[0]: norm" in check_bytes(*single(float(np.nextafter(2, 0)))).text


def _through(change: Callable[[Any, Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """P after slopes that are changed."""
    own = quadratic._through

    def patch(to: pytest.MonkeyPatch) -> None:
        wrong = lambda z, slopes, *rest: own(z, [(j, *change(d, u)) for j, d, u in slopes], *rest)  # noqa: E731
        to.setattr(quadratic, "_through", wrong)

    return patch


WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no half-width": _through(lambda d, u: ((d + u) / 2, (d + u) / 2)),
    "less half-width": _through(lambda d, u: (d + (u - d) / 64, u - (u - d) / 64)),
    "less slope": _through(lambda d, u: (d * 0.99, u * 0.99)),
    "no sum of the weights": lambda to: to.setattr(
        quadratic.Multipliers,
        "start",
        lambda self, halves: [r * r / w for r, w in zip(halves, self.weights, strict=True)],
    ),
    "no root": lambda to: to.setattr(
        "recurjac_check.claims.lengths", lambda gram: [(gram[i, i] / 4).upper() for i in range(gram.nrows())]
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_constant_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker would accept a norm below the true one."""
    WRONG[name](monkeypatch)
    assert check_bytes(*single(1.999)).text == "valid"


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Gelu", "Softplus", "Sin", "Square", "relu", "leaky", "clamp"])
def test_secants_lie_in_their_range(kind: str) -> None:
    pieces = {"relu": two_pieces(arb(0)), "leaky": two_pieces(arb(0.25)), "clamp": clamp(arb(-1), arb(0.5))}
    f = pieces[kind] if kind in pieces else SMOOTH[kind]
    random = np.random.default_rng(1)
    with ctx.workprec(128):
        for _ in range(10):
            l, c, u = (
                arb(float(v)) for v in np.sort(random.choice([-2.0, -1.0, 0.0, 0.5, 1.5, *random.normal(size=4)], 3))
            )
            low, high = f.secants(l, u, c)
            sizes = []
            for z in (arb(float(v)) for v in np.linspace(float(l), float(u), 37)):
                if z == c:
                    continue
                slope = (f.value(z) - f.value(c)) / (z - c)
                assert not slope < low
                assert not slope > high
                sizes.append(float(slope))
            if sizes and isinstance(f, Pieces):
                around = f.slopes(c, c)
                assert min(*sizes, float(around[0])) - 1e-9 <= float(low)
                assert float(high) <= max(*sizes, float(around[1])) + 1e-9
            ball = c + arb(0, 2.0**-60)
            wide = f.secants(l, u, ball)
            assert wide[0] <= low + 2.0**-40
            assert wide[1] >= high - 2.0**-40


def test_secants_of_a_product_are_means() -> None:
    with ctx.workprec(128):
        l, u, at = [arb(v) for v in (-1.0, 2.0)], [arb(v) for v in (1.0, 5.0)], [arb(0.5), arb(3.0)]
        (_, first, *by_u), (_, second, *by_v) = Product().secants(l, u, at)
        assert (first, second) == (0, 1)
        for a in np.linspace(-1, 1, 5):
            for b in np.linspace(2, 5, 5):
                mean_v, mean_u = (b + 3) / 2, (a + 0.5) / 2
                assert a * b - 1.5 == pytest.approx(mean_v * (a - 0.5) + mean_u * (b - 3))
                assert by_u[0] <= mean_v <= by_u[1]
                assert by_v[0] <= mean_u <= by_v[1]


def test_shortcuts_of_a_chain_are_followed() -> None:
    """Rows and a node that read several sources: their G holds for all slopes, as sampled at the ends."""
    source = np.random.default_rng(3)
    a, b, c = source.normal(0, 1, (2, 3)), source.normal(0, 1, (2, 5)), source.normal(0, 1, (3, 7))
    nodes = [(affine({0: a}), 2), (affine({0: b[:, :3], 1: b[:, 3:]}), 2)]
    slopes = [(j, arb(0), arb(1)) for j in range(2)]
    chained = quadratic.Chain([(y, slopes) for y, _ in nodes])
    rows = affine({0: c[:, :3], 1: c[:, 3:5], 2: c[:, 5:]})
    start = [arb(1), arb(0.25), arb(4)]
    given = quadratic.Multipliers(None, [[arb(40.0)] * 2, [arb(400.0)] * 2])
    with ctx.workprec(128):
        gram = np.array([[float(v) for v in row] for row in chained.reach(rows, start, given, "it").tolist()])
    for slope in np.array(np.meshgrid(*[(0.0, 1.0)] * 4)).reshape(4, -1).T:
        first = np.diag(slope[:2]) @ a
        second = np.diag(slope[2:]) @ (b[:, :3] + b[:, 3:] @ first)
        jacobian = c[:, :3] + c[:, 3:5] @ first + c[:, 5:] @ second
        over = gram - jacobian @ np.diag([1, 0.25, 4]) @ jacobian.T
        assert np.linalg.eigvalsh(over)[0] >= -1e-9 * np.abs(gram).max()


def affine(blocks: dict[int, Array]) -> Affine:
    """A linear function of sources."""
    matrices = {
        s: Matrix([{j: arb(float(v)) for j, v in enumerate(r)} for r in m], m.shape[1]) for s, m in blocks.items()
    }
    return Affine(matrices, [arb(0)] * len(next(iter(blocks.values()))))
