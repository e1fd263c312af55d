"""Every operator is the matrix that it says it is, and its rigorous products hold in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from math import inf, prod

import numpy as np
import pytest
import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous
from recurjac.operators import (
    AbstractLeaf,
    AbstractOperator,
    Compose,
    Dense,
    Gather,
    Identity,
    Negate,
    Reshape,
    Standardise,
    compose,
    convolution,
)
from recurjac.operators.convolution import Convolution, TransposedConvolution
from recurjac.operators.interval import interval_image
from recurjac.operators.interval_matrix import IntervalMatrix, total
from recurjac.operators.part import part
from recurjac.tensors import broadcast_shape
from tests.helpers import CPU, KINDS, Exact, exact, exact_image, examples, matrix, misses, numbers

FAST, RIGOROUS = Fast(), Rigorous()
SEEDS = range(3)

every_operator = pytest.mark.parametrize("operator", examples(AbstractOperator))
every_leaf = pytest.mark.parametrize("operator", examples(AbstractLeaf))
every_seed = pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"seed{s}")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def push(operator: AbstractOperator, x: Tensor) -> Tensor:
    return operator.push(FAST.exact(x)).mid


def single(operator: AbstractOperator) -> AbstractOperator:
    """A copy in float32."""
    return operator.to(torch.float64, CPU).to(torch.float32, CPU)


@every_operator
@pytest.mark.parametrize("lead", [(), (3,), (1, 2, 3), (2, 1, 3, 2)], ids=str)
def test_push_is_a_matrix_product_whatever_the_leading_dimensions(
    operator: AbstractOperator, lead: tuple[int, ...]
) -> None:
    x = random(*lead, *operator.in_shape)
    y = push(operator, x)
    assert tuple(y.shape) == (*lead, *operator.out_shape)
    flat = x.reshape(*lead, prod(operator.in_shape)) @ matrix(operator).mT
    torch.testing.assert_close(y, flat.reshape(y.shape), rtol=1e-13, atol=1e-13)


@every_operator
@every_seed
def test_transpose_is_the_vector_jacobian_product(operator: AbstractOperator, seed: int) -> None:
    x, v = random(*operator.in_shape, seed=seed), random(*operator.out_shape, seed=seed + 100)
    x.requires_grad_()
    (truth,) = torch.autograd.grad(push(operator, x), x, v)
    transpose = operator.transpose()
    assert transpose.in_shape == operator.out_shape
    assert transpose.out_shape == operator.in_shape
    torch.testing.assert_close(push(transpose, v), truth, rtol=1e-13, atol=1e-13)


@every_operator
def test_transposing_twice_changes_nothing(operator: AbstractOperator) -> None:
    twice = operator.transpose().transpose()
    assert (twice.in_shape, twice.out_shape) == (operator.in_shape, operator.out_shape)
    assert torch.equal(matrix(twice), matrix(operator))


@every_leaf
def test_absolute_takes_the_absolute_value_of_every_coefficient(operator: AbstractLeaf) -> None:
    assert torch.equal(matrix(operator.absolute()), matrix(operator).abs())
    assert torch.equal(matrix(operator.absolute().transpose()), matrix(operator).abs().mT)


@every_operator
def test_columns_are_those_of_the_matrix(operator: AbstractOperator) -> None:
    dense, n = matrix(operator), prod(operator.in_shape)
    for index in (
        torch.arange(n),
        torch.arange(2 * n).reshape(2, n) % n,
        torch.tensor([n - 1]),
        torch.arange(n).flip(0),
    ):
        columns = operator.columns(index, torch.float64, FAST).mid
        assert tuple(columns.shape) == (*index.shape, *operator.out_shape)
        torch.testing.assert_close(columns.reshape(*index.shape, -1), dense.mT[index], rtol=1e-14, atol=1e-14)


@every_operator
@every_seed
def test_rows_are_those_of_the_matrix(operator: AbstractOperator, seed: int) -> None:
    """Whatever the rows, and those of what remains transposed."""
    dense, n = matrix(operator), prod(operator.out_shape)
    g = torch.Generator().manual_seed(seed)
    for count in (1, max(1, n // 2), n):
        index = torch.randperm(n, generator=g)[:count].sort().values
        part, read = operator.rows(index)
        assert (part.in_shape, part.out_shape) == ((len(read),), (count,))
        assert torch.equal(read, read.unique())
        wide = torch.zeros(count, dense.shape[1], dtype=torch.float64)
        wide[:, read] = matrix(part)
        torch.testing.assert_close(wide, dense[index], rtol=1e-14, atol=1e-14)
        again, columns = part.transpose().rows(torch.arange(len(read)))
        torch.testing.assert_close(matrix(again), matrix(part)[columns].mT, rtol=1e-14, atol=1e-14)


@every_operator
@every_seed
def test_rigorous_columns_enclose_exact_ones(operator: AbstractOperator, seed: int) -> None:
    rounded = _perturbed(operator, seed)
    n = prod(rounded.in_shape)
    columns = rounded.columns(torch.arange(n), torch.float32, RIGOROUS)
    assert columns.mid.dtype == torch.float32
    for i in range(n):
        truth = exact_image(rounded, [Fraction(int(i == j)) for j in range(n)])
        assert not misses(columns.lower()[i], columns.upper()[i], truth)


@every_leaf
def test_columns_of_sums_of_products_are_exact_but_for_subnormal_coefficients(operator: AbstractLeaf) -> None:
    """A product of 1 and a subnormal coefficient may be flushed to zero."""
    n, some = prod(operator.in_shape), single(operator)
    assert isinstance(some, AbstractLeaf)
    assert some.columns(torch.arange(n), torch.float32, RIGOROUS).exact == some.sums_products
    for tensor in some.tensors():
        tensor.fill_(1e-40)
    flushed = any(True for _ in some.tensors()) and not isinstance(some, Dense)  # whose columns are no products
    exact_ = some.columns(torch.arange(n), torch.float32, RIGOROUS).exact
    assert exact_ == (some.sums_products and not flushed) or isinstance(some, Dense)


def _perturbed(operator: AbstractOperator, seed: int) -> AbstractOperator:
    """The operator in float32 with all bits of its nonzero coefficients random."""
    result = single(operator)
    for i, tensor in enumerate(result.tensors()):
        tensor.mul_(1 + numbers("ordinary", tensor.numel(), seed + i).reshape(tensor.shape) / 4)
    return result


@every_operator
@pytest.mark.parametrize("p", [1, 2, inf])
def test_norm_is_at_least_the_induced_norm(operator: AbstractOperator, p: float) -> None:
    truth = float(np.linalg.norm(matrix(operator).numpy(), p))
    assert float(operator.norm(p, FAST)) >= truth * (1 - 1e-12)
    assert float(operator.norm(p, RIGOROUS)) >= truth * (1 - 1e-12)


@every_leaf
@pytest.mark.parametrize("p", [1, inf])
@every_seed
def test_rigorous_norms_of_leaves_are_upper_bounds_and_tight(operator: AbstractLeaf, p: float, seed: int) -> None:
    rounded = _perturbed(operator, seed)
    coefficients = matrix(rounded).mT if p == 1 else matrix(rounded)
    truth = max(sum(map(abs, exact(row)), Fraction(0)) for row in coefficients)
    norm = float(rounded.norm(p, RIGOROUS))
    assert truth <= norm <= truth * (1 + Fraction(1, 10**5))


@every_leaf
def test_summands_count_at_least_the_nonzero_coefficients_of_a_row(operator: AbstractLeaf) -> None:
    dense = matrix(operator)
    most = int((dense != 0).sum(1).max())
    if operator.summands == 0:
        assert most <= 1
        assert set(dense.flatten().tolist()) <= {-1.0, 0.0, 1.0}
    else:
        assert operator.summands >= most


@every_operator
def test_multiply_adds_count_at_least_the_factors_that_are_not_1(operator: AbstractOperator) -> None:
    parts = [operator.outer, operator.inner] if isinstance(operator, Compose) else [operator]
    needed = sum(int(((m != 0) & (m.abs() != 1)).sum()) for m in map(matrix, parts))
    assert needed <= operator.multiply_adds() <= sum(prod(p.in_shape) * prod(p.out_shape) for p in parts)


@every_operator
def test_to_converts_the_coefficients(operator: AbstractOperator) -> None:
    rounded = single(operator)
    assert type(rounded) is type(operator)
    assert all(t.dtype == torch.float32 for t in rounded.tensors())
    x = random(2, *operator.in_shape).float()
    assert push(rounded, x).dtype == torch.float32
    torch.testing.assert_close(matrix(rounded).float(), matrix(operator).float())


@every_operator
@every_seed
def test_rigorous_push_encloses_exact_arithmetic(operator: AbstractOperator, seed: int) -> None:
    rounded, n = _perturbed(operator, seed), prod(operator.in_shape)
    for kind in KINDS:
        x = numbers(kind, 6 * n, seed).reshape(6, *operator.in_shape)
        result = rounded.push(RIGOROUS.exact(x))
        for row, lower, upper in zip(x, result.lower(), result.upper(), strict=True):
            assert not misses(lower, upper, exact_image(rounded, exact(row))), kind


@every_operator
@every_seed
def test_a_part_is_a_part_of_the_matrix(operator: AbstractOperator, seed: int) -> None:
    whole, g = matrix(operator), torch.Generator().manual_seed(seed)
    rows, columns = prod(operator.out_shape), prod(operator.in_shape)
    some = [(torch.rand(n, generator=g) > 0.4).nonzero().flatten() for n in (rows, columns)]
    for outputs, inputs in ((some[0], some[1]), (some[0], None), (None, some[1]), (None, None)):
        expected = whole if outputs is None else whole[outputs]
        expected = expected if inputs is None else expected[:, inputs]
        found = part(operator, outputs, inputs)
        if found is None:
            assert not bool(expected.any())
        else:
            assert found.in_shape == (operator.in_shape if inputs is None else (len(inputs),))
            assert found.out_shape == (operator.out_shape if outputs is None else (len(outputs),))
            torch.testing.assert_close(matrix(found), expected, rtol=1e-13, atol=1e-13)


@every_seed
def test_every_matrix_within_the_radius_is_enclosed(seed: int) -> None:
    """Products, transposes, columns, rows, intervals and norms of `IntervalMatrix`, at corners, in exact arithmetic."""
    mid, rad = numbers("ordinary", 12, seed).reshape(3, 4), numbers("ordinary", 12, seed + 1).reshape(3, 4).abs() / 64
    operator = IntervalMatrix(RIGOROUS.ball(mid, rad), (4,), (3,))
    x, y, z = numbers("ordinary", 4, seed + 2), numbers("ordinary", 3, seed + 3), numbers("ordinary", 4, seed + 4).abs()
    forward, back = operator.push(RIGOROUS.exact(x)), operator.transpose().push(RIGOROUS.exact(y))
    columns, (rows, _) = operator.columns(torch.arange(4), torch.float32, RIGOROUS), operator.rows(torch.tensor([0, 2]))
    some = rows.push(RIGOROUS.exact(x))
    box = interval_image(operator, Interval(x - z, x + z), RIGOROUS)
    norms = {p: Fraction(float(operator.norm(p, RIGOROUS))) for p in (1, inf)}
    for signs in torch.randint(-1, 2, (20, 3, 4), generator=torch.Generator().manual_seed(seed)).tolist():
        a = [
            [m + s * r for m, s, r in zip(exact(ms), ss, exact(rs), strict=True)]
            for ms, ss, rs in zip(mid, signs, rad, strict=True)
        ]
        ax = [sum((v * w for v, w in zip(row, exact(x), strict=True)), Fraction(0)) for row in a]
        ay = [sum((row[j] * w for row, w in zip(a, exact(y), strict=True)), Fraction(0)) for j in range(4)]
        assert not misses(forward.lower(), forward.upper(), ax)
        assert not misses(back.lower(), back.upper(), ay)
        assert not misses(columns.lower(), columns.upper(), [row[j] for j in range(4) for row in a])
        assert not misses(some.lower(), some.upper(), [ax[0], ax[2]])
        assert not misses(box.lower, box.upper, ax)
        assert max(sum(map(abs, row), Fraction(0)) for row in a) <= norms[inf]
        assert max(sum((abs(row[j]) for row in a), Fraction(0)) for j in range(4)) <= norms[1]


@every_operator
@every_seed
def test_rigorous_push_encloses_the_image_of_a_ball(operator: AbstractOperator, seed: int) -> None:
    rounded, n = _perturbed(operator, seed), prod(operator.in_shape)
    mid, rad = numbers("ordinary", n, seed), numbers("ordinary", n, seed + 100).abs()
    shape = operator.in_shape
    result = rounded.push(RIGOROUS.ball(mid.reshape(shape), rad.reshape(shape)))
    for signs in torch.randint(-1, 2, (8, n), generator=torch.Generator().manual_seed(seed)).tolist():
        point = [m + s * r for m, s, r in zip(exact(mid), signs, exact(rad), strict=True)]
        assert not misses(result.lower(), result.upper(), exact_image(rounded, point))


def test_plain_products_do_not_pass_the_test_above() -> None:
    wrong = 0
    for seed in SEEDS:
        rounded = _perturbed(Dense.examples()[0], seed)
        x = numbers("ordinary", 6, seed)
        y = push(rounded, x)
        wrong += len(misses(y, y, exact_image(rounded, exact(x))))
    assert wrong > 0


@every_operator
@every_seed
def test_interval_image_contains_the_images_of_points(operator: AbstractOperator, seed: int) -> None:
    rounded, n = _perturbed(operator, seed), prod(operator.in_shape)
    for kind in KINDS:
        ends = numbers(kind, 2 * n, seed).reshape(2, n).sort(0).values
        at = (torch.arange(n) + seed) % 5
        low, high = torch.where(at == 0, -inf, ends[0]), torch.where(at == 1, inf, ends[1])
        box = Interval(low.reshape(operator.in_shape), high.reshape(operator.in_shape))
        image = interval_image(rounded, box, RIGOROUS)
        for i in range(6):
            assert not misses(image.lower, image.upper, exact_image(rounded, _point(low, high, i))), kind


def _point(low: Tensor, high: Tensor, seed: int) -> Exact:
    """A point of the box: a corner or one inside; far away where an end is infinite."""
    share = torch.rand(low.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if seed % 2:
        share = share.round()
    first, last = low.double().clamp(min=-1e60), high.double().clamp(max=1e60)
    return exact((first + share * (last - first)).clamp(first, last))


@every_leaf
@every_seed
def test_interval_image_of_one_operator_is_the_smallest(operator: AbstractLeaf, seed: int) -> None:
    ends = random(2, *operator.in_shape, seed=seed).sort(0).values
    image, dense = interval_image(operator, Interval(ends[0], ends[1]), FAST), matrix(operator)
    low, high = ends[0].flatten(), ends[1].flatten()
    lower = dense.clamp(min=0) @ low + dense.clamp(max=0) @ high
    upper = dense.clamp(min=0) @ high + dense.clamp(max=0) @ low
    torch.testing.assert_close(image.lower.flatten(), lower, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(image.upper.flatten(), upper, rtol=1e-13, atol=1e-13)


def test_an_infinite_end_spreads_only_where_it_is_met() -> None:
    operator = Dense.matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    box = Interval(torch.tensor([-inf, 1.0], dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64))
    for arithmetic in (FAST, RIGOROUS):
        image = interval_image(operator, box, arithmetic)
        assert image.lower.tolist() == [-inf, pytest.approx(2.0)]
        assert image.upper.tolist() == [inf, pytest.approx(4.0)]


@every_operator
def test_nothing_computed_from_live_tensors_is_kept(operator: AbstractOperator) -> None:
    """Parameters change in place during training; |A| of before would be a false radius (this was a bug)."""
    live = single(operator)
    x = numbers("ordinary", prod(operator.in_shape), 0).reshape(operator.in_shape)

    def everything(rounded: AbstractOperator) -> list[Tensor]:
        value = rounded.push(RIGOROUS.exact(x))
        back = rounded.transpose().push(RIGOROUS.exact(value.mid))
        norms = [rounded.norm(p, RIGOROUS) for p in (1, 2, inf)]
        return [value.lower(), value.upper(), back.lower(), back.upper(), *norms]

    everything(live)
    for tensor in live.tensors():
        tensor.mul_(1000 if isinstance(live, Standardise) else -1000).add_(7)  # variances stay positive
    assert all(torch.equal(a, b) for a, b in zip(everything(live), everything(single(live)), strict=True))


@every_operator
def test_results_are_differentiable_in_the_operators_tensors(operator: AbstractOperator) -> None:
    live = single(operator)
    leaves = [t.requires_grad_() for t in live.tensors()]
    x, v = random(*live.in_shape).float(), random(*live.out_shape, seed=1).float()
    for tensor in leaves:
        for result in (push(live, x), push(live.transpose(), v), live.push(RIGOROUS.exact(x)).upper()):
            (gradient,) = torch.autograd.grad(result.sum(), tensor, retain_graph=True)
            assert gradient.isfinite().all()
            assert gradient.any()


def test_composition_is_the_product_of_matrices() -> None:
    operators: list[AbstractOperator] = [o.values[0] for o in examples(AbstractOperator)]  # type: ignore[misc]
    pairs = [(a, b) for a in operators for b in operators if b.out_shape == a.in_shape]
    assert {type(compose(a, b)) for a, b in pairs} >= {Compose, Dense, Identity, Reshape}
    for a, b in pairs:
        both = compose(a, b)
        assert (both.in_shape, both.out_shape) == (b.in_shape, a.out_shape)
        torch.testing.assert_close(matrix(both), matrix(a).double() @ matrix(b).double(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("operator", [o for c in Convolution.examples() for o in (c, c.transpose())], ids=repr)
def test_convolutions_of_lots_are_those_of_all_images(
    operator: Convolution | TransposedConvolution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, also of their derivatives by the images."""
    images = torch.randn(7, *operator.in_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images.requires_grad_()
    whole = operator.apply(images)
    by_images = torch.autograd.grad(whole.square().sum(), images)[0]
    monkeypatch.setattr(convolution, "_FRESH", 1)
    for size in (1, 3 * prod(operator.out_shape) * operator.summands):
        monkeypatch.setattr(convolution, "_PATCHES", size)
        lots = operator.apply(images)
        assert torch.equal(lots, whole)
        assert torch.equal(torch.autograd.grad(lots.square().sum(), images)[0], by_images)
    assert operator.apply(images[:0]).shape == (0, *operator.out_shape)


@pytest.mark.parametrize("arithmetic", [FAST, RIGOROUS], ids=lambda a: a.title)
@pytest.mark.parametrize("first", ["placed", "viewed"])
@pytest.mark.parametrize("live", [False, True], ids=["plain", "live"])
def test_sums_with_few_placed_entries_are_those_of_their_terms(
    arithmetic: AbstractArithmetic, first: str, live: bool
) -> None:
    """They are added in the memory of the sum, which must not be that of an operand, and not where gradients pass."""
    table = torch.tensor([[-1, 2, -1, -1, 0, -1]])
    few, rest = Gather(table, (3,), (2, 3)), Gather(torch.tensor([[-1, -1, 1, 0, -1, -1]]), (2,), (2, 3))
    viewed: AbstractOperator = Identity((2, 3))
    operators = [few, viewed, rest, compose(Negate((2, 3)), few)] if first == "placed" else [viewed, few, rest, few]
    values = [random(1, 4, 5, *o.in_shape, seed=i).requires_grad_(live) for i, o in enumerate(operators)]
    before = [v.detach().clone() for v in values]
    found = total([(o, arithmetic.exact(v)) for o, v in zip(operators, values, strict=True)])
    assert all(torch.equal(v, b) for v, b in zip(values, before, strict=True))
    expected = reduce(torch.add, (o.push(FAST.exact(v)).mid for o, v in zip(operators, values, strict=True)))
    assert torch.equal(found.mid, expected)
    if live:
        for got, wanted in zip(
            torch.autograd.grad(found.mid.square().sum(), values),
            torch.autograd.grad(expected.square().sum(), values),
            strict=True,
        ):
            assert torch.equal(got, wanted)


def test_operators_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) matrix does not map \(2,\) to \(2,\)"):
        Dense(torch.zeros(2, 3), (2,), (2,))
    with pytest.raises(ValueError, match=r"\(2, 3\) cannot be reshaped to \(5,\)"):
        Reshape((2, 3), (5,))
    with pytest.raises(ValueError, match=r"on \(3,\) cannot follow one to \(2,\)"):
        Compose(Identity((3,)), Identity((2,)))


@pytest.mark.parametrize("shapes", [((3, 1), (4,)), ((), (2, 1)), ((1, 5), (1, 5), (2, 1, 1)), ((0,), (1,)), ((7,),)])
def test_the_shape_of_a_broadcast_is_that_of_pytorch(shapes: tuple[tuple[int, ...], ...]) -> None:
    assert broadcast_shape(*shapes) == tuple(torch.broadcast_shapes(*shapes))
    with pytest.raises(ValueError, match="shape"):
        broadcast_shape(*shapes, (11, 13))
