"""Values of the two arithmetics: rigorous results hold in exact arithmetic, with no tolerance."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product as pairs
from math import inf, nextafter

import pytest
import torch

from recurjac.arithmetic import (
    Ball,
    Fast,
    Rigorous,
    Signed,
    Slopes,
    around_,
    nonnegative_sum,
    plus_and_minus_,
    plus_matmul_,
    summed,
)
from recurjac.operators import Dense
from tests.helpers import KINDS, Exact, exact, misses, numbers
from tests.marks import SEEDS, every_dtype, every_kind, every_seed

FAST, RIGOROUS = Fast(), Rigorous()
ENDS: tuple[Fraction, ...] = (Fraction(-1), Fraction(0), Fraction(1))
"""Where inside its radius the exact number lies."""

Operation = Callable[..., object]
ENTRYWISE: dict[str, Operation] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
}


def ball(kind: str, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Ball:
    """Numbers with radii of their own size, of rounding size, and 0."""
    mid = numbers(kind, size, seed, dtype)
    share = torch.tensor([0.0, 0.25, torch.finfo(dtype).eps], dtype=dtype).repeat(size)[:size]
    return RIGOROUS.ball(mid, mid.abs() * share)


def point_of(value: Ball, end: Fraction) -> Exact:
    """The exact numbers at one place of the value's ball."""
    assert value.rad is not None
    rows = zip(exact(value.mid), exact(value.rad.expand_as(value.mid)), strict=True)
    return [mid + end * rad for mid, rad in rows]


def total(weights: Exact, x: Exact) -> Fraction:
    return sum((a * b for a, b in zip(weights, x, strict=True)), Fraction(0))


@every_dtype
@every_seed
@pytest.mark.parametrize("name", ENTRYWISE)
def test_entrywise_operations_enclose_exact_results(name: str, seed: int, dtype: torch.dtype) -> None:
    operation = ENTRYWISE[name]
    for kind, other in pairs(KINDS, ("ordinary", "subnormal", "huge", "mixed")):
        a, b = ball(kind, 30, seed, dtype), ball(other, 30, seed + 100, dtype)
        result = operation(a, b)
        assert isinstance(result, Ball)
        lower, upper = result.lower(), result.upper()
        for i in ENDS:
            for j in ENDS:
                truth = [operation(x, y) for x, y in zip(point_of(a, i), point_of(b, j), strict=True)]
                assert not misses(lower, upper, truth)  # type: ignore[arg-type]


@every_dtype
@every_seed
@every_kind
def test_dot_encloses_exact_sums(kind: str, seed: int, dtype: torch.dtype) -> None:
    n = 1 + 7 * seed
    for other in (kind, "ordinary", "subnormal", "huge"):
        forms, rows = ball(kind, 3 * 2 * 4 * n, seed, dtype), ball(other, 3 * 2 * n, seed + 100, dtype)
        shaped, row = forms.map(lambda t: t.reshape(3, 2, 4, n)), rows.map(lambda t: t.reshape(3, 2, n))
        result = shaped.dot(row)
        assert result.shape == (3, 2, 4)
        for end in ENDS:
            left, right = point_of(forms, end), point_of(rows, -end)
            truth = [total(left[i * n :][:n], right[i // 4 * n :][:n]) for i in range(24)]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
@every_kind
@pytest.mark.parametrize("rows", [(3, 2), (3, 1), (1, 2), (1, 1)], ids=str)
def test_dot_of_exact_numbers_encloses_exact_sums(
    rows: tuple[int, int], kind: str, seed: int, dtype: torch.dtype
) -> None:
    n, (b, k) = 1 + 7 * seed, rows
    for other in (kind, "ordinary", "subnormal", "huge"):
        forms, numbers = ball(kind, 24 * n, seed, dtype).mid, ball(other, b * k * n, seed + 100, dtype).mid
        left, right = forms.reshape(3, 2, 4, n), numbers.reshape(b, k, n)
        result = RIGOROUS.exact(left).dot(RIGOROUS.exact(right))
        wide = right.expand(3, 2, n).reshape(6, n)
        truth = [total(exact(left.reshape(24, n)[i]), exact(wide[i // 4])) for i in range(24)]
        assert not misses(result.lower(), result.upper(), truth)


def test_dot_of_exact_numbers_carries_derivatives() -> None:
    g = torch.Generator().manual_seed(0)
    forms, rows = (torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in ((3, 2, 4, 5), (3, 1, 5)))
    found = RIGOROUS.exact(forms).dot(RIGOROUS.exact(rows)).upper()
    grads = torch.autograd.grad(found.sum(), (forms, rows))
    plain = torch.autograd.grad(torch.einsum("bkrn,bn->bkr", forms, rows[:, 0]).sum(), (forms, rows))
    for a, b in zip(grads, plain, strict=True):
        torch.testing.assert_close(a, b)


@every_seed
@pytest.mark.parametrize("shapes", [((1, 1), (3, 2)), ((3, 1), (3, 2)), ((3, 1), (1, 2)), ((1, 2), (3, 2)),
                                    ((3, 2), (1, 1)), ((3, 2), (3, 1)), ((3, 2), (1, 2))], ids=str)  # fmt: skip
def test_forms_and_rows_of_any_batch_and_covectors(shapes: tuple[tuple[int, int], tuple[int, int]], seed: int) -> None:
    """Small whole numbers, of which every sum is exact."""
    n = 1 + 3 * seed
    forms = torch.arange(24 * n, dtype=torch.float64).reshape(3, 2, 4, n)[: shapes[0][0], : shapes[0][1]]
    rows = torch.arange(6 * n, dtype=torch.float64).reshape(3, 2, n)[: shapes[1][0], : shapes[1][1]]
    found = RIGOROUS.exact(forms).dot(RIGOROUS.exact(rows))
    truth = (forms * rows.unsqueeze(2)).sum(-1)
    assert torch.equal(found.mid, truth)
    assert bool(((found.lower() <= truth) & (truth <= found.upper())).all())


@every_dtype
@every_seed
@every_kind
def test_a_sum_of_many_encloses_exact_sums(kind: str, seed: int, dtype: torch.dtype) -> None:
    """Terms of one shape, and some that broadcast, exact ones and others."""
    for other in (kind, "ordinary", "subnormal", "huge"):
        terms = [ball(kind, 24, seed + i, dtype) for i in range(1 + 3 * seed)]
        terms += [RIGOROUS.exact(numbers(other, 24, seed + 100, dtype)), ball(other, 24, seed + 101, dtype)]
        one = ball(other, 1, seed + 102, dtype)
        result = summed([*(t.map(lambda m: m.reshape(2, 3, 4)) for t in terms), one.map(lambda m: m.reshape(1, 1, 1))])
        assert result.shape == (2, 3, 4)
        for end in ENDS:
            ends = [point_of(t, end) for t in terms]
            truth = [sum((e[i] for e in ends), point_of(one, end)[0]) for i in range(24)]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
@every_kind
def test_linear_encloses_exact_products(kind: str, seed: int, dtype: torch.dtype) -> None:
    n, m = 1 + 6 * seed, 5
    for other in (kind, "ordinary", "subnormal", "huge"):
        weight, x = numbers(kind, m * n, seed, dtype).reshape(m, n), ball(other, 8 * n, seed + 100, dtype)
        result = x.map(lambda t: t.reshape(8, n)).linear(Dense.matrix(weight))
        for end in ENDS:
            inputs = point_of(x, end)
            truth = [total(exact(row), inputs[i * n :][:n]) for i in range(8) for row in weight]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
@every_kind
def test_slopes_by_sign_enclose_exact_products(kind: str, seed: int, dtype: torch.dtype) -> None:
    """The radius of an entry whose slope is known goes on; where it is not, the midpoint alone is multiplied."""
    n = 24
    for other in (kind, "ordinary", "subnormal", "huge"):
        forms = ball(kind, n, seed, dtype)
        above, below = numbers(other, n, seed + 100, dtype), numbers(other, n, seed + 200, dtype)
        known = torch.arange(n) % 2 == 0
        below = torch.where(known, above, below)
        slopes = Slopes(above, below)
        parts = Signed.of_(forms.map(torch.clone), live=False)
        result = parts.times_(slopes, torch.where(known, above.abs(), 0.0))
        for end in ENDS:
            mids, moved, up, low = exact(forms.mid), point_of(forms, end), exact(above), exact(below)
            truth = [up[i] * moved[i] if known[i] else (up[i] if mids[i] > 0 else low[i]) * mids[i] for i in range(n)]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
@every_kind
def test_forms_around_a_centre_are_enclosed(kind: str, seed: int, dtype: torch.dtype) -> None:
    """c·x + |c|·r for every c of the ball, x and r exact."""
    n = 1 + 7 * seed
    for other in (kind, "ordinary", "subnormal", "huge"):
        forms, x = ball(kind, 6 * n, seed, dtype), numbers(other, n, seed + 100, dtype)
        r = numbers(other, n, seed + 200, dtype).abs()
        result = around_(forms.map(lambda t: t.reshape(1, 2, 3, n).clone()), x[None], r[None])
        for end in ENDS:
            c = point_of(forms, end)
            rows = [c[i * n :][:n] for i in range(6)]
            truth = [total(row, exact(x)) + total([abs(v) for v in row], exact(r)) for row in rows]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
@every_kind
def test_sums_of_products_of_one_sign_are_enclosed(kind: str, seed: int, dtype: torch.dtype) -> None:
    """Weights and numbers >= 0, then both <= 0; the one sum of both."""
    n, m = 1 + 7 * seed, 4
    for other in (kind, "ordinary", "subnormal", "huge"):
        above, below = numbers(kind, 6 * n, seed, dtype).abs(), -numbers(other, 6 * m, seed + 100, dtype).abs()
        high, low = numbers(other, n, seed + 200, dtype).abs(), -numbers(kind, m, seed + 300, dtype).abs()
        high[::3] = 0
        result = nonnegative_sum([
            (above.reshape(1, 1, 6, n), high.reshape(1, 1, n)), (below.reshape(1, 1, 6, m), low.reshape(1, 1, m))
        ])  # fmt: skip
        a, b = exact(above), exact(below)
        truth = [total(a[i * n :][:n], exact(high)) + total(b[i * m :][:m], exact(low)) for i in range(6)]
        assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
def test_a_product_that_is_added_encloses_exact_sums(seed: int, dtype: torch.dtype) -> None:
    """In the memory of forms whose rows lie apart, with zeros that underflow and zeros that are none."""
    n, m = 1 + 5 * seed, 3
    for kind, other in pairs(KINDS, KINDS):
        wide, forms = ball(kind, 8 * (m + 2), seed, dtype), ball(other, 8 * n, seed + 100, dtype)
        matrix = ball(kind, m * n, seed + 200, dtype)
        whole = wide.map(lambda t: t.clone().reshape(1, 2, 4, m + 2))
        base, beside = whole.map(lambda t: t[..., 2:]), whole.mid[..., :2].clone()
        zero = torch.arange(8).reshape(1, 2, 4, 1) % 3 == 0
        base.mid.masked_fill_(zero, 0.0)
        before = base.map(torch.clone)
        shaped, rows = forms.map(lambda t: t.reshape(1, 2, 4, n)), matrix.map(lambda t: t.reshape(m, n))
        result = plus_matmul_(base, shaped, rows)
        assert torch.equal(whole.mid[..., :2], beside)
        for end in ENDS:
            start = point_of(before.map(lambda t: t.flatten()), end)
            c, w = point_of(forms, -end), point_of(matrix, end)
            truth = [start[i] + total(c[i // m * n :][:n], w[i % m * n :][:n]) for i in range(8 * m)]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
@every_seed
def test_a_product_for_each_covector_is_added_to_one_for_all(seed: int, dtype: torch.dtype) -> None:
    n, m = 1 + 5 * seed, 3
    for kind, other in pairs(KINDS, ("ordinary", "subnormal", "huge", "sparse")):
        base, forms = ball(kind, 4 * m, seed, dtype), ball(other, 8 * n, seed + 100, dtype)
        matrix = ball(kind, m * n, seed + 200, dtype)
        single = base.map(lambda t: t.clone().reshape(1, 1, 4, m))
        result = plus_matmul_(single, forms.map(lambda t: t.reshape(1, 2, 4, n)), matrix.map(lambda t: t.reshape(m, n)))
        assert result.shape == (1, 2, 4, m)
        for end in ENDS:
            start, c, w = point_of(base, end), point_of(forms, -end), point_of(matrix, end)
            truth = [start[i % (4 * m)] + total(c[i // m * n :][:n], w[i % m * n :][:n]) for i in range(8 * m)]
            assert not misses(result.lower(), result.upper(), truth)


@every_dtype
def test_sums_of_what_is_lost_beside_a_larger_number_are_enclosed(dtype: torch.dtype) -> None:
    """Of ones and many numbers below their precision each is lost that is added to a 1: far more than a few roundings.

    There are ones enough that each of a processor's partial sums begins with one.
    """
    n, first, eps = 2**16, 256, torch.finfo(dtype).eps
    row = torch.full((1, 1, n), eps / 4, dtype=dtype)
    row[..., :first] = 1
    ones = torch.ones(1, 1, 1, n, dtype=dtype)
    truth = [total(exact(row.flatten()), exact(ones.flatten()))]
    weights, numbers_, base = (
        RIGOROUS.exact(ones),
        RIGOROUS.exact(row),
        RIGOROUS.exact(torch.ones(1, 1, 1, 1, dtype=dtype)),
    )
    sums = (
        nonnegative_sum([(ones, row)]),
        weights.dot(numbers_),
        weights.matmul(numbers_.map(lambda t: t[0])),
        nonnegative_sum([(ones[..., : n // 2], row[..., : n // 2]), (ones[..., n // 2 :], row[..., n // 2 :])]),
    )
    for found in sums:
        assert truth[0] - exact(found.mid.flatten())[0] > 4 * first * Fraction(eps)
        assert not misses(found.lower(), found.upper(), truth)
    added = plus_matmul_(base, weights, numbers_.map(lambda t: t[0]))
    assert not misses(added.lower(), added.upper(), [truth[0] + 1])


@every_dtype
def test_a_bound_covers_what_underflows(dtype: torch.dtype) -> None:
    """In float64 the cover was itself lost by conversion to float32 (this was a bug)."""
    tiny = torch.finfo(dtype).tiny
    least = RIGOROUS.at_least(torch.tensor([tiny, 0.0], dtype=dtype), 3)
    assert least[0] >= 5 * tiny
    assert least[1] == 0
    slopes = Slopes(torch.tensor([0.25, 0.0], dtype=dtype), torch.tensor([0.5, 0.5], dtype=dtype))
    assert slopes.tiny_above.tolist() == [tiny, 0]
    assert slopes.minus_tiny_below.tolist() == [-tiny, -tiny]
    forms = RIGOROUS.exact(torch.tensor([1.0, 1.0], dtype=dtype) * tiny)
    steep = Slopes(torch.tensor([torch.finfo(dtype).eps / 4, 0.0], dtype=dtype), slopes.below)
    product = Signed.of_(forms, live=False).times_(steep, None)
    assert (product.upper() > 0).tolist() == [True, False]
    zero, flat = torch.zeros(2, dtype=dtype), torch.tensor([tiny, 0.0], dtype=dtype)
    product = Signed.of_(RIGOROUS.ball(zero, zero + tiny), live=False).times_(Slopes(flat, flat), flat)
    assert (product.upper() > 0).tolist() == [True, False]


def test_what_is_zero_by_structure_stays_exactly_zero() -> None:
    """A row of the matrix and a form are 0: where they meet nothing is lost, where products underflow something is."""
    form = RIGOROUS.exact(torch.tensor([[[[0.0, 0.0], [1e-30, 0.0]]]]))
    matrix = RIGOROUS.exact(torch.tensor([[1e-30, 1.0], [0.0, 0.0], [0.0, 3.0]]))
    base = RIGOROUS.exact(torch.zeros(1, 1, 2, 3))
    for product in (form.matmul(matrix), plus_matmul_(base, form, matrix)):
        assert (product.upper() > 0).tolist() == [[[[False, False, False], [True, False, False]]]]
        assert (product.lower() < 0).tolist() == [[[[False, False, False], [True, False, False]]]]
    several = form.map(lambda t: t.expand(5, 1, 2, 2)).matmul(matrix.map(lambda t: t.expand(5, 1, 3, 2)))
    assert (several.upper() > 0).tolist() == [[[[False, False, False], [True, False, False]]]] * 5
    flat = form.map(lambda t: t[0].expand(5, 2, 2)).matmul(matrix.map(lambda t: t.expand(5, 3, 2)))
    assert (flat.upper() > 0).tolist() == [[[False, False, False], [True, False, False]]] * 5
    rows = form.dot(RIGOROUS.exact(torch.tensor([[[1e-30, 1.0]]])))
    assert (rows.upper() > 0).tolist() == [[[False, True]]]


def test_tensors_without_entries() -> None:
    """No forms, a node of no neurons, and a sum of no products, beside what is 0 and what is not."""
    none, slopes = torch.zeros(1, 1, 0, 3), Slopes(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3))
    assert Signed.of_(RIGOROUS.exact(none), live=False).times_(slopes, None).shape == none.shape
    flat = torch.zeros(1, 1, 2, 0)
    empty = Slopes(flat[:, :, :1], flat[:, :, :1])
    assert Signed.of_(RIGOROUS.exact(flat), live=False).times_(empty, None).shape == flat.shape
    base = torch.tensor([[[[0.0, 2.0, -1.0]]]])
    found = plus_matmul_(
        RIGOROUS.exact(base.clone()), RIGOROUS.exact(flat[:, :, :1]), RIGOROUS.exact(torch.zeros(3, 0))
    )
    assert torch.equal(found.mid, base)
    assert bool(((found.lower() <= base) & (base <= found.upper())).all())


@every_dtype
@every_seed
def test_what_is_added_in_place_encloses_exact_sums(seed: int, dtype: torch.dtype) -> None:
    for kind, other in pairs(KINDS, KINDS):
        forms, common = ball(kind, 12, seed, dtype), ball(other, 6, seed + 100, dtype)
        kept = Ball(forms.mid.clone(), forms.rad)
        whole = forms.map(lambda t: t.clone().reshape(1, 1, 4, 3))
        result = plus_and_minus_(whole, common.map(lambda t: t.reshape(1, 1, 2, 3)))
        for end in ENDS:
            a, b = point_of(kept, end), point_of(common, -end)
            truth = [a[i] + b[i] for i in range(6)] + [a[6 + i] - b[i] for i in range(6)]
            assert not misses(result.lower(), result.upper(), truth)


@every_seed
def test_linear_encloses_exact_products_that_cancel(seed: int) -> None:
    """The last coefficient brings the sum near 0, where the relative error is largest."""
    weight, x = numbers("ordinary", 40, seed).reshape(1, 40), numbers("ordinary", 40, seed + 100)
    x[-1] = -(weight[0, :-1].double() @ x[:-1].double() / weight[0, -1].double())
    result = RIGOROUS.exact(x).linear(Dense.matrix(weight))
    assert not misses(result.lower(), result.upper(), [total(exact(weight), exact(x))])
    assert misses(result.mid, result.mid, [total(exact(weight), exact(x))])


@pytest.mark.parametrize(("factor", "point"), [(3.0, 3e38), (1.2345678e30, 7e-45), (1e-30, 1e-30), (1e30, 1e30)])
def test_products_at_the_ends_of_the_range_are_enclosed(factor: float, point: float) -> None:
    """Overflow of a product whose sum is finite, a rounding error far above one that underflowed, underflow to 0."""
    weight, x = torch.tensor([[factor, -1.0]]), torch.tensor([point, point])
    truth = [total(exact(weight), exact(x))]
    row = RIGOROUS.exact(weight.reshape(1, 1, 2))
    products = (
        RIGOROUS.exact(x).linear(Dense.matrix(weight)),
        RIGOROUS.exact(x.reshape(1, 1, 1, 2)).dot(row),
        RIGOROUS.exact(weight.reshape(1, 1, 1, 2)).dot(RIGOROUS.exact(x.reshape(1, 1, 2))),
    )
    for product in products:
        assert not misses(product.lower(), product.upper(), truth)


@every_seed
def test_errors_of_products_of_subnormal_and_huge_numbers_are_covered(seed: int) -> None:
    """gamma times a subnormal number is 0, but what is lost is weighed with a huge one (this was a bug)."""
    huge, small = numbers("huge", 64, seed) / 1024, numbers("subnormal", 64, seed + 100) / 4096
    truth = [total(exact(huge), exact(small))]
    long, short = (RIGOROUS.exact(t.reshape(1, 1, 64)) for t in (huge, small))
    products = (
        RIGOROUS.exact(small).linear(Dense.matrix(huge.reshape(1, 64))),
        RIGOROUS.exact(huge.reshape(1, 1, 1, 64)).dot(short),
        RIGOROUS.exact(small.reshape(1, 1, 1, 64)).dot(long),
    )
    for product in products:
        assert not misses(product.lower(), product.upper(), truth)


def test_an_overflow_in_the_middle_of_a_sum_is_no_lower_bound() -> None:
    """2·3e38 - 3e38 is 3e38, but the computed sum is infinite (this was a bug)."""
    result = RIGOROUS.exact(torch.tensor([3e38, 3e38])).linear(Dense.matrix(torch.tensor([[2.0, -1.0]])))
    assert result.mid.isinf()
    assert result.lower() <= 3e38


@every_kind
def test_plain_arithmetic_is_not_enough(kind: str) -> None:
    """The tests above could fail: without a radius some results are not the exact ones."""
    wrong = 0
    for seed in SEEDS:
        weight, x = numbers("ordinary", 5 * 20, seed).reshape(5, 20), numbers(kind, 20, seed + 100)
        result = FAST.exact(x).linear(Dense.matrix(weight))
        truth = [total(exact(row), exact(x)) for row in weight]
        wrong += len(misses(result.lower(), result.upper(), truth))
    assert wrong > 0


@every_dtype
def test_what_is_exactly_zero_stays_so(dtype: torch.dtype) -> None:
    zero, some = RIGOROUS.exact(torch.zeros(1, 1, 2, 6, dtype=dtype)), numbers("ordinary", 6, 0, dtype)
    row = RIGOROUS.exact(some.reshape(1, 1, 6))
    results = (
        zero + zero,
        zero * RIGOROUS.exact(some),
        zero.dot(row),
        RIGOROUS.exact(some.reshape(1, 1, 1, 6)).dot(RIGOROUS.exact(torch.zeros(1, 1, 6, dtype=dtype))),
        zero.linear(Dense.matrix(some.reshape(1, 6))),
        RIGOROUS.exact(some).linear(Dense.matrix(torch.zeros(4, 6, dtype=dtype))),
    )
    for result in results:
        assert (result.lower() == 0).all()
        assert (result.upper() == 0).all()
    assert (RIGOROUS.at_least(torch.zeros(3, dtype=dtype), 5) == 0).all()


@every_dtype
@every_seed
@every_kind
def test_at_least_and_at_most_bound_exact_sums_of_products(kind: str, seed: int, dtype: torch.dtype) -> None:
    for other in (kind, "ordinary"):
        a, b = numbers(kind, 9, seed, dtype).abs(), numbers(other, 9, seed + 100, dtype).abs()
        computed = (a * b).sum().reshape(1)
        truth = total(exact(a), exact(b))
        if float(computed) > 0 or truth == 0:
            low, high = RIGOROUS.at_most(computed, 9), RIGOROUS.at_least(computed, 9)
            assert not misses(low, high, [truth])
            assert FAST.at_most(computed, 9) == FAST.at_least(computed, 9) == computed


def test_a_computed_infinity_bounds_from_above_and_not_from_below() -> None:
    infinite = torch.tensor([inf])
    assert RIGOROUS.at_least(infinite, 3) == inf
    assert RIGOROUS.at_most(infinite, 3) == 0
    assert RIGOROUS.at_most(torch.tensor([2e38]), 3).item() == pytest.approx(2e38, rel=1e-5)


def test_upper_ends_carry_the_derivative_of_the_middle() -> None:
    mid = torch.tensor([1.0, -2.0], requires_grad=True)
    value = Ball(mid, torch.tensor([0.0, 1e-3]))
    assert value.upper()[1] > nextafter(-2.0, 0)
    (gradient,) = torch.autograd.grad((value.upper() - 3 * value.lower()).sum(), mid)
    assert gradient.tolist() == [-2.0, -2.0]
