"""Spectral norms of operators are proved and tight: small ones in rational arithmetic, real ones by power iteration."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import inf, prod

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.arithmetic import Ball, Fast, Rigorous
from recurjac.operators import (
    AbstractLeaf,
    AbstractOperator,
    Convolution,
    Dense,
    Divide,
    Gather,
    Reshape,
    Scale,
    Standardise,
    compose,
    spectral,
)
from recurjac.operators.convolution import Geometry
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.spectral import spectral_estimate, spectral_norm
from tests.exact import rational
from tests.helpers import CPU, examples, matrix, numbers
from tests.marks import every_seed
from tests.rebuilt import NETS
from tests.test_definite import above

every_operator = pytest.mark.parametrize("operator", examples(AbstractOperator))
every_leaf = pytest.mark.parametrize("operator", examples(AbstractLeaf))
TIGHT = 1e-9
FAST, RIGOROUS = Fast(), Rigorous()


def single(operator: AbstractOperator, seed: int) -> AbstractOperator:
    """The operator in float32 with all bits of its nonzero coefficients random."""
    result = operator.to(torch.float64, CPU).to(torch.float32, CPU)
    for i, tensor in enumerate(result.tensors()):
        tensor.mul_(1 + numbers("ordinary", tensor.numel(), seed + i).reshape(tensor.shape) / 4)
    return result


def singular(operator: AbstractOperator) -> float:
    """The largest singular value in float64."""
    return float(torch.linalg.matrix_norm(matrix(operator.to(torch.float64, CPU)), 2))


def convolution(channels: int, size: int, kernel: int = 3, stride: int = 1, seed: int = 0) -> Convolution:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, channels, kernel, kernel, generator=g, dtype=torch.float64)
    geometry = Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1), 1)
    return Convolution(weight, (channels, size, size), geometry)


def normalised(inner: Convolution, seed: int = 0) -> AbstractOperator:
    g = torch.Generator().manual_seed(seed)
    shape = inner.out_shape
    variance = torch.rand(shape[0], 1, 1, generator=g, dtype=torch.float64).expand(shape)
    scale = torch.randn(shape[0], 1, 1, generator=g, dtype=torch.float64).expand(shape)
    return compose(Scale(scale), compose(Standardise(variance, 1e-5), inner))


@every_operator
@every_seed
def test_norms_in_float32_are_those_of_float64_and_never_below(operator: AbstractOperator, seed: int) -> None:
    rounded = single(operator, seed)
    truth = singular(rounded)
    for arithmetic in (FAST, RIGOROUS):
        found = rounded.norm(2, arithmetic)
        assert truth <= float(found) * (1 + 1e-15)  # (the truth is rounded itself)
        assert float(found) <= truth * (1 + 1e-6)


@every_leaf
@every_seed
def test_norms_hold_in_rational_arithmetic(operator: AbstractLeaf, seed: int) -> None:
    rounded = single(operator, seed)
    if isinstance(rounded, Divide | Standardise):
        pytest.skip("its coefficients are not floating-point numbers")
    dense, bound = rational(matrix(rounded)), Fraction(float(rounded.norm(2, RIGOROUS)))
    assert above(bound**2, dense.T.dot(dense))


@every_operator
def test_layers_prove_the_same(operator: AbstractOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = singular(operator)
    if () in (operator.in_shape, operator.out_shape):
        return
    monkeypatch.setattr(spectral, "_SMALL", 0)
    monkeypatch.setattr(spectral, "_BESIDE", 1)
    for gram in spectral._grams(operator, CPU):
        found = float(gram.matrix(torch.ones((), dtype=torch.float64)).largest_eigenvalue()) ** 0.5
        assert truth * (1 - 1e-15) <= found <= truth * (1 + TIGHT)


@every_operator
def test_where_nothing_can_be_factored_the_norm_is_still_no_less(
    operator: AbstractOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "_WORK", -1)
    found, size = float(spectral_norm(operator)), matrix(operator).abs()
    assert found >= singular(operator) * (1 - 1e-15)
    if isinstance(operator, AbstractLeaf):
        assert found <= float(torch.linalg.matrix_norm(size, 2)) * 1.2 + 1e-12


def _local() -> Iterator[tuple[str, AbstractOperator]]:
    yield "convolution", convolution(3, 12)
    yield "strided", convolution(4, 16, 4, 2)
    yield "transposed", convolution(4, 16, 4, 2).transpose()
    yield "normalised", normalised(convolution(3, 12))
    permutation = torch.arange(432).reshape(12, 12, 3).movedim(-1, 0).reshape(1, -1)
    yield "channels last", compose(convolution(3, 12), Gather(permutation, (12, 12, 3), (3, 12, 12)))
    yield "flattened", compose(convolution(3, 12), Reshape((432,), (3, 12, 12)))
    pooled = torch.arange(3 * 13 * 13).reshape(3, 13, 13).unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)
    yield "overlapping sums", Gather(pooled.flatten(0, 2).mT, (3, 13, 13), (3, 6, 6))
    yield "dense", Dense.matrix(torch.randn(300, 280, generator=torch.Generator().manual_seed(0)).double())


@pytest.mark.parametrize("operator", [pytest.param(o, id=name) for name, o in _local()])
def test_large_operators(operator: AbstractOperator) -> None:
    truth, estimate, bound = singular(operator), float(spectral_estimate(operator)), float(operator.norm(2, RIGOROUS))
    assert 0.5 * truth <= estimate <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-15) <= bound <= truth * (1 + TIGHT)


@pytest.mark.parametrize("operator", [pytest.param(o, id=name) for name, o in _local() if name != "dense"])
def test_local_operators_are_taken_in_layers_that_meet_their_neighbours_alone(operator: AbstractOperator) -> None:
    grams = [g for g in spectral._grams(operator, CPU) if len(g.layers) > 1]
    assert grams or prod(operator.out_shape) <= spectral._SMALL
    for gram in grams:
        dense = matrix(gram.operator)  # type: ignore[arg-type]
        whole = dense.mT @ dense
        order = torch.cat(gram.layers)
        assert torch.equal(order.sort().values, torch.arange(len(whole)))
        blocks = gram.matrix(torch.ones((), dtype=torch.float64))
        made = torch.zeros_like(whole)
        for layer, block in zip(gram.layers, blocks.diagonal, strict=True):
            made[layer.unsqueeze(1), layer] = block.mid
        for a, b, block in zip(gram.layers, gram.layers[1:], blocks.below, strict=False):
            made[b.unsqueeze(1), a] = block.mid
            made[a.unsqueeze(1), b] = block.mid.mT
        torch.testing.assert_close(made, whole, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-150, 1e150, 1e300, inf])
@pytest.mark.parametrize("wide", [False, True])
def test_scales(scale: float, wide: bool) -> None:
    plain = convolution(3, 12) if wide else convolution(1, 4)
    operator = Convolution(plain.weight * scale, plain.inputs, plain.geometry)
    found = float(operator.norm(2, RIGOROUS))
    if scale in (0.0, inf):
        assert found == (0.0 if scale == 0 else inf)
    else:
        truth = singular(plain)
        assert truth * (1 - 1e-15) <= found / scale <= truth * (1 + (1e-5 if scale == 1e-300 else TIGHT))


def test_one_number_that_is_none_leaves_a_norm_unbounded() -> None:
    weight = torch.ones(3, 3)
    weight[1, 1] = torch.nan
    assert Dense.matrix(weight).norm(2, RIGOROUS) == inf


def test_simple_operators_are_exact() -> None:
    moves = Gather(torch.tensor([[2, 0, -1, 1]]), (3,), (2, 2))
    assert float(moves.norm(2, RIGOROUS)) == 1
    repeated = Gather(torch.tensor([[0, 0, 0, 0]]), (3,), (4,))
    assert 2 <= float(repeated.norm(2, RIGOROUS)) <= 2 * (1 + 1e-14)
    assert float(Gather(torch.tensor([[-1, -1]]), (3,), (2,)).norm(2, RIGOROUS)) == 0
    assert 3 <= float(Scale(torch.tensor([1.0, -3.0]).double()).norm(2, RIGOROUS)) <= 3 * (1 + 1e-14)
    blocks = Dense(torch.eye(2, dtype=torch.float64) * 2, (5, 2), (5, 2))
    assert 2 <= float(blocks.norm(2, RIGOROUS)) <= 2 * (1 + TIGHT)


def test_a_matrix_known_up_to_its_rounding_is_covered() -> None:
    g = torch.Generator().manual_seed(0)
    mid, rad = torch.randn(4, 5, generator=g).double(), torch.rand(4, 5, generator=g).double() * 1e-3
    bound = float(IntervalMatrix(Ball(mid, rad), (5,), (4,)).norm(2, RIGOROUS))
    signs = torch.randn(200, 4, 5, generator=g).double().sign()
    assert float(torch.linalg.matrix_norm(mid + signs * rad, 2).max()) <= bound
    assert bound <= float(torch.linalg.matrix_norm(mid, 2) + torch.linalg.matrix_norm(rad, 2)) * (1 + TIGHT)


@pytest.mark.parametrize("name", ["convolution", "normalised", "dense"])
def test_the_derivative_is_that_of_the_norm(name: str) -> None:
    operator = dict(_local())[name]
    live = operator.to(torch.float64, CPU)
    leaves = [t.clone().requires_grad_() for t in live.tensors()]
    remade = _with(live, iter(leaves))
    found = torch.autograd.grad(remade.norm(2, RIGOROUS), leaves)
    truth = torch.autograd.grad(torch.linalg.matrix_norm(matrix(remade), 2), leaves)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


def _with(operator: AbstractOperator, tensors: Iterator[Tensor]) -> AbstractOperator:
    """The operator with other tensors."""
    if isinstance(operator, rj.operators.Compose):
        return compose(_with(operator.outer, tensors), _with(operator.inner, tensors))
    if isinstance(operator, Convolution):
        return Convolution(next(tensors), operator.inputs, operator.geometry)
    if isinstance(operator, Dense):
        return Dense(next(tensors), operator.inputs, operator.outputs)
    if isinstance(operator, Standardise):
        return Standardise(next(tensors), operator.floor)
    return Scale(next(tensors)) if isinstance(operator, Scale) else operator


@pytest.mark.skipif(not NETS.is_dir(), reason="the networks are not at hand")
@pytest.mark.parametrize(
    "name",
    [
        "cifar_base_kw", "marabou_cifar10_small", "Convnet_avgpool", "resnet_2b", "mnist_cnn_maxpool_bn",
        pytest.param("cifar_resnet_small_unfolded", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_norms_of_real_networks(name: str) -> None:
    pytest.importorskip("onnx")
    for stage in rj.load(NETS / f"{name}.onnx").stages:
        for edge in stage.edges:
            attained = float(spectral_estimate(edge.operator, 300))
            assert attained * (1 - 1e-14) <= float(edge.operator.norm(2, RIGOROUS)) <= attained * (1 + TIGHT)
