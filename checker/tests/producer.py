"""Small networks, and certificates of them for tests: what intervals and lines prove, with a little room."""

import hashlib
import json
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from flint import arb, ctx
from onnx import TensorProto, helper

from recurjac_check import network, region
from recurjac_check.claims import norm_bound
from recurjac_check.functions import Elementwise
from recurjac_check.system import Edges, Known, System, point_supremum
from recurjac_check.witness import Leaf, backward, combined

Json = dict[str, Any]
ROOM = 2.0**-40


def model(nodes: list[Any], weights: dict[str, Any], shape: tuple[int, ...]) -> bytes:
    """An ONNX file whose input is "x" and whose output is that of the last node."""
    initializers = [onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.DOUBLE, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def dense(sizes: list[int], seed: int, kind: str = "Relu") -> bytes:
    """A chain of dense layers with small rational weights."""
    random = np.random.default_rng(seed)
    nodes, weights, last = [], {}, "x"
    for k, (n, m) in enumerate(pairwise(sizes)):
        weights[f"w{k}"] = random.integers(-8, 9, (n, m)) / 8.0
        weights[f"b{k}"] = random.integers(-8, 9, m) / 16.0
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [f"z{k}"]))
        if k < len(sizes) - 2:
            nodes.append(helper.make_node(kind, [f"z{k}"], [f"h{k}"]))
        last = f"h{k}"
    return model(nodes, weights, (1, sizes[0]))


def hexes(values: list[arb], up: bool) -> list[str]:
    """Doubles that leave a little room."""
    sign = 1 if up else -1
    floats = (float(v.mid()) for v in values)
    return [float(v + sign * ROOM * max(abs(v), 1e-3)).hex() for v in floats]


def ball(center: list[float], radius: float, norm: str = "inf", clip: Any = None) -> Json:
    """A region."""
    return {
        "kind": "ball",
        "norm": norm,
        "center": [c.hex() for c in map(float, center)],
        "radius": float(radius).hex(),
        "clip": clip,
    }


def _stage(l: list[arb], u: list[arb], below: Any = None, above: Any = None) -> Json:
    return {"lower": hexes(l, False), "upper": hexes(u, True), "lower_slope": below, "upper_slope": above}


def _adaptive(l: list[arb], u: list[arb]) -> list[str]:
    return [(1.0 if float(b) >= -float(a) else 0.0).hex() for a, b in zip(l, u, strict=True)]


class Builder:
    """The witness of one leaf."""

    def __init__(self, data: bytes, part: region.Region) -> None:
        self.net = network.load(data)
        self.part = part
        system, self.stages = System(part.supremum), []
        for stage in self.net.stages:
            l, u = system.bounds(stage.pre)
            value = _stage(l, u)
            if isinstance(stage.function, Elementwise) and stage.name == "Relu":
                value["lower_slope"] = _adaptive(l, u)
            self.stages.append(value)
            ends = [[arb(float.fromhex(v)) for v in value[k]] for k in ("lower", "upper")]
            below = [arb(float.fromhex(v)) for v in value["lower_slope"]] if value["lower_slope"] else None
            system.nodes.append(Known(stage.pre, stage.function, *ends, below))
        self.gradients: list[Json] = []
        self.leaf = Leaf(self.net, part, self.json(), "leaf")

    def json(self) -> Json:
        return {
            "values": {"stages": self.stages, "quadratic": None},
            "gradients": self.gradients,
            "tangents": None,
            "halfspaces": [],
        }

    def gradient(self, row: list[list[Any]]) -> None:
        """Add the gradients of a row."""
        total = len(self.net.stages)
        vector = [arb(0)] * len(self.net.outputs)
        for i, c in row:
            vector[i] = arb(float.fromhex(c))
        system, stages = System(point_supremum(vector)), []
        for k in reversed(range(total)):
            edges = [(i, d, most) for i, _, d, most in self.leaf.edges[k]]
            affine = backward(self.net, self.leaf.edges, k + 1)
            l, u = system.bounds(affine)
            stages.append(_stage(l, u))
            ends = [[arb(float.fromhex(v)) for v in stages[-1][key]] for key in ("lower", "upper")]
            system.nodes.append(Known(affine, Edges(edges), *ends))
        self.gradients.append({"row": row, "stages": stages[::-1], "quadratic": None})


def certificate(data: bytes, where: Json, claims: list[Json], parts: list[Json]) -> Json:
    """A whole certificate."""
    return {
        "format": "recurjac-certificate/1",
        "producer": {"name": "test"},
        "model": {"sha256": hashlib.sha256(data).hexdigest()},
        "region": where,
        "region_sha256": region.digest(where),
        "claims": claims,
        "parts": parts,
    }


def unit(i: int) -> list[list[Any]]:
    """The row of one output."""
    return [[i, (1.0).hex()]]


def everything(data: bytes, where: Json, split: float | None = None) -> Json:
    """A certificate with claims of all kinds, of one leaf or of two, split at input 0."""
    with ctx.workprec(128):
        net = network.load(data)
        whole = region.read(where, net.inputs)
        parts = [whole] if split is None else [whole.cut(0, arb(split), True), whole.cut(0, arb(split), False)]
        builders = [Builder(data, part) for part in parts]
        rows = [unit(i) for i in range(len(net.outputs))]
        claims: list[Json] = []
        parsed = [tuple((i, arb(float.fromhex(c))) for i, c in row) for row in rows]
        for b in builders:
            for row in rows:
                b.gradient(row)
        for row, own in zip(rows, parsed, strict=True):
            pairs = [b.leaf.values.bounds(combined(net.outputs, [own])) for b in builders]
            low, high = (f(float(p[s][0]) for p in pairs) for s, f in ((0, min), (1, max)))
            claims.append(
                {
                    "kind": "output",
                    "row": row,
                    "lower": hexes([arb(low)], False)[0],
                    "upper": hexes([arb(high)], True)[0],
                }
            )
            entries = [b.leaf.jacobian(own, True) for b in builders]
            lower = [arb(min(float(e[0][i]) for e in entries)) for i in range(net.inputs)]
            upper = [arb(max(float(e[1][i]) for e in entries)) for i in range(net.inputs)]
            claims.append({"kind": "jacobian", "row": row, "lower": hexes(lower, False), "upper": hexes(upper, True)})
            ends = list(
                zip(map(float.fromhex, claims[-1]["lower"]), map(float.fromhex, claims[-1]["upper"]), strict=True)
            )
            up, down = [i for i, (l, _) in enumerate(ends) if l > 0], [i for i, (_, u) in enumerate(ends) if u < 0]
            claims.append({"kind": "monotone", "row": row, "increasing": up, "decreasing": down})
            if up or down:
                claims.append({"kind": "no_stationary_point", "row": row})
        for p in ("1", "2", "inf"):
            for q in ("1", "2", "inf"):
                bounds = [arb(float(norm_bound(b.leaf, parsed, p, q, True))) for b in builders]
                upper = hexes([max(bounds)], True)[0]
                claims.append({"kind": "lipschitz", "rows": rows, "from": p, "to": q, "by": "entries", "upper": upper})
        return certificate(data, where, claims, _tree(builders, split))


def _tree(builders: list[Builder], split: float | None) -> list[Json]:
    leaves = [b.json() for b in builders]
    if split is None:
        return leaves
    return [{"split": {"input": 0, "at": split.hex()}, "below": 1, "above": 2}, *leaves]


def encoded(value: Any) -> bytes:
    """The file of a certificate."""
    return json.dumps(value).encode()
