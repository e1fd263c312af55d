"""Maxima over windows and sorts select entries: what is known of that holds, and the product of norms uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.network import Network, Selection
from tests.marks import every_seed

NETS = Path(__file__).parents[2] / "shared" / "nets"
QUICK = rj.Search(work=0)


class Sort(nn.Module):
    """GroupSort, in groups of `size`."""

    def __init__(self, size: int, descending: bool = False) -> None:
        super().__init__()
        self.size, self.descending = size, descending

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, self.size).sort(-1, descending=self.descending).values.flatten(1)


class Repeated(nn.Module):
    """A minimum of what repeats and swaps entries."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, [3, 0, 1, 2, 0]].amin(2)


class Halves(nn.Module):
    """MaxMin, written as a maximum and a minimum of two halves, in several orders."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.stacked = stacked

    def forward(self, x: Tensor) -> Tensor:
        a, b = (x[:, ::2], x[:, 1::2]) if self.stacked else x.chunk(2, 1)
        most, least = torch.maximum(a, b), torch.minimum(b, a)
        return torch.stack([least, most], -1) if self.stacked else torch.cat([most, least], 1)


SELECTORS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    "disjoint": (lambda: nn.MaxPool2d(2), (1, 2, 6, 4), (1, 1)),
    "overlapping": (lambda: nn.MaxPool2d(3, stride=1), (1, 1, 5, 5), (1, 9)),
    "padded": (lambda: nn.MaxPool2d(3, stride=2, padding=1), (1, 1, 5, 5), (1, 4)),
    "dilated": (lambda: nn.MaxPool1d(3, stride=1, dilation=2), (1, 2, 9), (1, 3)),
    "uneven": (lambda: nn.AdaptiveMaxPool1d(3), (1, 2, 7), (1, 2)),
    "all": (lambda: nn.AdaptiveMaxPool2d(1), (1, 2, 3, 3), (1, 1)),
    "repeated": (Repeated, (1, 2, 4), (1, 2)),
    "sort": (lambda: Sort(4), (1, 8), (1, 1)),
    "pairs": (lambda: Sort(2, True), (1, 6), (1, 1)),
    "halves": (lambda: Halves(False), (1, 6), (1, 1)),
    "stacked halves": (lambda: Halves(True), (1, 6), (1, 1)),
}


def selector(name: str) -> tuple[Network, Selection, int]:
    make, shape, _ = SELECTORS[name]
    network = rj.load(nn.Sequential(make(), nn.Flatten()), torch.randn(shape, dtype=torch.float64))
    stages = [k for k, s in enumerate(network.stages, 1) if s.selection is not None]
    (node,) = stages
    selection = network.stages[node - 1].selection
    assert selection is not None
    return network, selection, node


def jacobian(network: Network, node: int, source: int, slopes: dict[int, Tensor]) -> Tensor:
    """Of a node with respect to an earlier one, for given slopes of the stages in between: (node, source)."""
    n = network.stages[source - 1].shape if source else network.input_shape
    found = {source: torch.eye(int(np.prod(n)), dtype=torch.float64)}
    for k in range(source + 1, node + 1):
        stage = network.stages[k - 1]
        total = torch.zeros(int(np.prod(stage.shape)), found[source].shape[1], dtype=torch.float64)
        for e in stage.edges:
            if e.source in found:
                columns = found[e.source].mT.reshape(-1, *e.operator.in_shape)
                total += e.operator.push(rj.Fast().exact(columns)).mid.flatten(1).mT
        found[k] = total if stage.linear else slopes[k].reshape(-1, 1) * total
    return found[node]


@every_seed
@pytest.mark.parametrize("name", SELECTORS)
def test_row_and_column_sums_hold_for_all_slopes(name: str, seed: int) -> None:
    """Also for those that no input has."""
    network, selection, node = selector(name)
    g = torch.Generator().manual_seed(seed)
    columns = 0.0
    for spread in (0.0, 1.0):
        slopes = {
            k: (torch.rand(s.shape, generator=g, dtype=torch.float64) - 0.5) * spread
            + torch.randint(0, 2, s.shape, generator=g) * (1 - spread) + 0.5 * spread
            for k, s in enumerate(network.stages, 1)
        }  # fmt: skip
        found = jacobian(network, node, selection.source, slopes)
        assert float(found.abs().sum(1).max()) <= selection.row_sum * (1 + 1e-12)
        assert float(found.abs().sum(0).max()) <= selection.column_sum * (1 + 1e-12)
        columns = max(columns, float(found.abs().sum(0).max()))
    assert (selection.row_sum, selection.column_sum) == SELECTORS[name][2]
    assert columns > 0


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_has_its_norm_in_the_product(name: str, p: float) -> None:
    network, selection, _ = selector(name)
    region = rj.LpBall(torch.zeros(1, *network.input_shape, dtype=torch.float64), inf, p)
    found = float(rj.lipschitz(network, region, p=p, q=p, method=rj.ProductOfNorms(), search=QUICK).upper)
    row, column = selection.row_sum, selection.column_sum
    want = {1: column, 2: sqrt(row * column), inf: row}[p]
    assert want <= found <= want * (1 + 1e-12)


class NoPairs(nn.Module):
    """Maxima and minima side by side that are no sort of pairs: an entry is compared twice, or with others."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        if self.kind == "broadcast":
            b = b[:, :1]
        if self.kind == "repeated":
            a = x[:, [0, 0, 1]]
        if self.kind == "the same":
            b = a
        least = {"other": lambda: torch.minimum(a, x[:, [4, 5, 3]]), "maximum": lambda: torch.maximum(a, b)}
        second = least.get(self.kind, lambda: torch.minimum(a, b))()
        more = [a] if self.kind == "three" else []
        return torch.cat([torch.maximum(a, b), second, *more], 1)


@pytest.mark.parametrize("kind", ["broadcast", "repeated", "the same", "other", "maximum", "three"])
def test_what_is_no_sort_of_pairs(kind: str) -> None:
    module = NoPairs(kind)
    x = torch.randn(7, 6, dtype=torch.float64)
    network = rj.load(module, x[:1])
    assert all(s.selection is None for s in network.stages)
    assert torch.allclose(network(x), module(x))


@pytest.mark.parametrize("stacked", [True, False])
def test_halves_of_a_layer_are_sorted_exactly(stacked: bool) -> None:
    """One comparison for each pair, also after a layer with a bias, and 1-Lipschitz layers stay so."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), Halves(stacked), nn.Flatten(), nn.Linear(8, 8), Halves(stacked), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(8, 8)).double()
    for layer in (module[0], module[3], module[6]):
        assert isinstance(layer, nn.Linear)
        nn.init.orthogonal_(layer.weight)
    x = torch.randn(5, 8, dtype=torch.float64)
    network = rj.load(module, x[:1])
    assert sum(not s.linear for s in network.stages) == 2
    assert torch.allclose(network(x), module(x))
    for method in (rj.ProductOfNorms(), rj.QuadraticNorm(2)):
        for radius in (0.1, inf):
            found = rj.lipschitz(network, rj.LpBall(x[:1], radius, 2), p=2, q=2, method=method, search=QUICK)
            assert 1 - 1e-9 <= float(found.upper.detach()) <= 1 + 1e-9


def test_what_is_known_follows_changes_of_the_input() -> None:
    """A matrix before the input changes the entries that are selected from."""
    network, selection, node = selector("disjoint")
    assert selection.source == 0
    wide = network.precompose(3 * torch.eye(48, dtype=torch.float64))
    assert wide.stages[node - 1].selection is None
    region = rj.LpBall(torch.zeros(1, 48, dtype=torch.float64), inf, 2)
    found = rj.lipschitz(wide, region, p=2, q=2, method=rj.ProductOfNorms(), search=QUICK)
    assert float(found.upper) >= 3
    small = network.fix({0: 1.0})
    assert float(rj.lipschitz(small, rj.LpBall(torch.zeros(1, 47, dtype=torch.float64), 1.0, 2), p=2, q=2).upper) >= 1


def test_a_stage_selects_from_an_earlier_one() -> None:
    network, selection, node = selector("disjoint")
    for wrong in (replace(selection, source=node), replace(selection, source=-1)):
        stages = list(network.stages)
        stages[node - 1] = replace(stages[node - 1], selection=wrong)
        with pytest.raises(rj.InvalidNetwork, match="does not select among entries of node"):
            replace(network, stages=tuple(stages))


# Convolutional networks: the default is not looser than the product of spectral norms


def spectral(apply: Any, shape: tuple[int, ...]) -> float:
    """‖A‖₂ of a linear function of tensors of `shape`, by ARPACK's iteration."""
    linalg = pytest.importorskip("scipy.sparse.linalg")
    probe = torch.zeros(1, *shape, dtype=torch.float64)
    out = apply(probe).shape

    def back(y: Any) -> Any:
        with torch.enable_grad():
            x = probe.clone().requires_grad_()
            (g,) = torch.autograd.grad(apply(x), x, torch.from_numpy(np.ascontiguousarray(y)).reshape(out))
        return g.numpy().ravel()

    def forth(x: Any) -> Any:
        return apply(torch.from_numpy(np.ascontiguousarray(x)).reshape(probe.shape)).numpy().ravel()

    size = (int(np.prod(out)), int(np.prod(shape)))
    operator = linalg.LinearOperator(size, matvec=forth, rmatvec=back, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(min(size))
    return float(linalg.svds(operator, k=1, tol=1e-10, v0=start, return_singular_vectors=False)[0])


def product_of_spectral_norms(path: Path) -> float:
    """Over the nodes of an ONNX file: norms of convolutions and matrices, sums of branches, 1 for everything else."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    weights = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    shapes = {
        v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.value_info)
    }
    gain = {v.name: 1.0 for v in graph.input}
    for node in graph.node:
        told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [gain[n] for n in node.input if n in gain and n not in weights]
        factor, total = 1.0, sum(inputs) if node.op_type == "Add" else max(inputs, default=0.0)
        kernel = next((weights[n].double() for n in node.input[:2] if n in weights), None)
        if node.op_type == "Conv":
            assert kernel is not None
            top, left, bottom, right = told.get("pads", (0, 0, 0, 0))
            strides = tuple(told.get("strides", (1, 1)))

            def convolve(
                x: Tensor, w: Tensor = kernel, s: Any = strides, a: Any = (left, right, top, bottom)
            ) -> Tensor:
                return nn.functional.conv2d(nn.functional.pad(x, a), w, stride=s)

            factor = spectral(convolve, shapes[node.input[0]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            assert kernel is not None
            factor = float(torch.linalg.matrix_norm(kernel, 2)) * told.get("alpha", 1.0)
        elif node.op_type == "AveragePool":
            assert told["strides"] == told["kernel_shape"]
            factor = 1 / sqrt(np.prod(told["kernel_shape"]))
        else:
            assert node.op_type in ("Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Add", "Constant", "Pad"), (
                node.op_type
            )
        gain[node.output[0]] = factor * total
    return gain[graph.output[0].name]


CONVOLUTIONAL = [
    "Convnet_avgpool", "Convnet_maxpool", "cifar_base_kw", "marabou_cifar10_small", "mnist_cnn_maxpool_bn", "resnet_2b",
]  # fmt: skip


def global_l2(name: str, **settings: Any) -> float:
    network = rj.load(NETS / f"{name}.onnx")
    region = rj.LpBall(torch.zeros(1, *network.input_shape), inf, 2)
    lip = rj.lipschitz(network, region, p=2, q=2, search=QUICK, **settings)
    assert lip.rigorous
    return float(lip.upper)


@pytest.mark.skipif(not NETS.exists(), reason="the networks are kept beside the repository")
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_product_of_norms_is_that_of_spectral_norms(name: str) -> None:
    assert global_l2(name, method=rj.ProductOfNorms()) <= product_of_spectral_norms(NETS / f"{name}.onnx") * (1 + 1e-8)


@pytest.mark.skipif(not NETS.exists(), reason="the networks are kept beside the repository")
@pytest.mark.parametrize(
    "name", [n if n == "Convnet_avgpool" else pytest.param(n, marks=pytest.mark.slow) for n in CONVOLUTIONAL]
)
def test_the_default_is_not_looser_than_the_product_of_spectral_norms(name: str) -> None:
    assert global_l2(name) <= product_of_spectral_norms(NETS / f"{name}.onnx") * (1 + 1e-8)
