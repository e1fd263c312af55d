"""Figures of the 2018 code, of auto_LiRPA and of exact methods (../shared/reference/README.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.activations import AbstractActivation, ReLU
from recurjac.jacobian import AbstractJacobianMethod
from tests.reference import RADII, dense, needs_reference, read, reference

pytestmark = needs_reference

ONLY_CENTRE = rj.Search(work=0)
METHODS: dict[str, AbstractJacobianMethod] = {
    "recurjacB": rj.RecurJac(),
    "recurjacF0": rj.Reversed(rj.RecurJac()),
    "recurjacF1": rj.ReversedAfterFirst(rj.RecurJac()),
    "fastlip": rj.FastLip(),
}
FIGURES = [
    pytest.param(
        *r.values, m, id=f"{r.id}-{m}",
        marks=pytest.mark.slow if "mnist" in str(r.id) and (m[-2:] in ("F0", "F1") or "eps2" in str(r.id)) else [],
    )
    for r in RADII
    for m in METHODS
]  # fmt: skip
"""Those from the input's side take minutes on the larger networks."""


def gap(ours: torch.Tensor, theirs: Any) -> float:
    """The largest difference relative to the largest entry."""
    return float((ours - torch.tensor(theirs)).abs().max() / np.abs(theirs).max())


@pytest.mark.parametrize(("name", "i", "method"), FIGURES)
def test_jacobian_bounds_equal_the_2018_code(name: str, i: int, method: str) -> None:
    ref = reference(name, i)
    if not ref.has(f"{method}_lower"):
        pytest.skip("no figure")
    for arithmetic in (rj.Fast(), rj.Rigorous()) if not name.startswith("mnist") else (rj.Fast(),):
        bounds = rj.jacobian_bounds(
            ref.network, ref.region, method=METHODS[method], pre=ref.given, arithmetic=arithmetic
        )
        largest = max(np.abs(ref.figure(f"{method}_{end}")).max() for end in ("lower", "upper"))
        for end in ("lower", "upper"):
            ours = getattr(bounds, end)[0]
            assert float((ours - torch.tensor(ref.figure(f"{method}_{end}"))).abs().max()) <= 1e-9 * largest


@pytest.mark.parametrize(("name", "i", "method"), FIGURES)
def test_lipschitz_constants_equal_the_2018_code(name: str, i: int, method: str) -> None:
    ref = reference(name, i)
    found = False
    for sums, key in ((rj.PlainSum(), "lip_plain"), (rj.SignSum(), "lip_sep")):
        if not ref.has(f"{method}_{key}"):
            continue
        found = True
        theirs = ref.figure(f"{method}_{key}")
        how = rj.JacobianNorm(METHODS[method], rj.PlainSum() if method == "fastlip" else sums)
        rows = range(len(theirs)) if not name.startswith("mnist") else (0, 7)
        for k in rows:
            lip = rj.lipschitz(
                ref.network.output(k),
                ref.region,
                p=ref.p,
                q=rj.inf,
                method=how,
                pre=ref.given,
                arithmetic=rj.Fast(),
                search=ONLY_CENTRE,
            )
            assert float(lip.upper[0]) == pytest.approx(float(theirs[k]), rel=1e-9)
    if not found:
        pytest.skip("no figure")


@pytest.mark.parametrize(("name", "i"), [r for r in RADII if "relu" in str(r.id) or "leaky" in str(r.id)])
def test_crown_equals_crown_adaptive(name: str, i: int) -> None:
    """Also a radius that passes through float32 on its way in would show here."""
    ref = reference(name, i)
    alone = rj.preactivation_bounds(ref.network, ref.region, pre=rj.Alone(rj.Crown()), arithmetic=rj.Fast()).stages
    default = rj.preactivation_bounds(ref.network, ref.region, pre=rj.Crown(), arithmetic=rj.Fast()).stages
    for k in range(len(alone) - 1):
        low, high = ref.figure(f"preact_lb_{k}"), ref.figure(f"preact_ub_{k}")
        assert gap(alone[k].lower[0], low) <= 1e-9
        assert gap(alone[k].upper[0], high) <= 1e-9
        unstable = (default[k].lower < 0) & (default[k].upper > 0)
        slack = 1e-12 * float(np.abs(high).max())
        assert bool((default[k].lower >= alone[k].lower - slack)[unstable].all())
        assert bool((default[k].upper <= alone[k].upper + slack)[unstable].all())


@pytest.mark.parametrize(("name", "i"), [r for r in RADII if "_relu" in str(r.id)])
def test_fast_lin_equals_the_2018_code(name: str, i: int) -> None:
    ref = reference(name, i)
    alone = rj.preactivation_bounds(ref.network, ref.region, pre=rj.Alone(rj.FastLin()), arithmetic=rj.Fast()).stages
    for k in range(len(alone) - 1):
        assert gap(alone[k].lower[0], ref.figure(f"preact_fastlin_lb_{k}")) <= 1e-9
        assert gap(alone[k].upper[0], ref.figure(f"preact_fastlin_ub_{k}")) <= 1e-9


@pytest.mark.parametrize(("name", "i"), [r for r in RADII if "tanh" in str(r.id) or "arctan" in str(r.id)])
def test_crown_for_smooth_activations_is_on_average_no_wider(name: str, i: int) -> None:
    ref = reference(name, i)
    for rule in (rj.Alone(rj.Crown()), rj.Crown()):
        ours = rj.preactivation_bounds(ref.network, ref.region, pre=rule).stages
        for k in range(len(ours) - 1):
            theirs = ref.figure(f"preact_ub_{k}") - ref.figure(f"preact_lb_{k}")
            assert float(ours[k].width.mean()) <= float(theirs.mean()) * (1 + 1e-9)


LIRPA = [
    ("rand_relu_tiny", 0, 4.6909), ("rand_relu_tiny", 1, 9.6162), ("rand_relu_tiny", 2, 20.019),
    ("mnist_6x100_relu", 0, 161.88523), ("mnist_6x100_relu", 1, 212.6125), ("mnist_6x100_relu", 2, 70750.74),
    ("mnist_6x100_relu", 3, 196555.8), ("mnist_9x200_relu", 0, 156.681), ("mnist_9x200_relu", 1, 270.859),
    ("mnist_9x200_relu", 2, 9.68174e8), ("rand_leaky_10x20", 0, 37.172), ("rand_leaky_10x20", 1, 65548.9),
    ("rand_leaky_10x20", 2, 124177.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "i", "theirs"), LIRPA)
def test_chords_reproduce_auto_lirpa(name: str, i: int, theirs: float) -> None:
    """Its CROWN figure for the l∞ constant of the largest output at the centre, to the digits it is printed with."""
    ref = reference(name, i)
    network = ref.network
    largest = int(network(torch.tensor(ref.arrays["x"])[None]).argmax())
    for arithmetic in (rj.Fast(), rj.Rigorous()):
        lip = rj.lipschitz(
            network.output(largest), ref.region, method=rj.Chords(), pre=rj.Alone(rj.Crown()), arithmetic=arithmetic,
            search=ONLY_CENTRE,
        )  # fmt: skip
        digits = len(f"{theirs:g}".replace(".", "").split("e")[0])
        assert float(lip.upper[0]) == pytest.approx(theirs, rel=max(1e-5, 10.0 ** (1 - digits)))


@pytest.mark.parametrize(("name", "i"), RADII)
def test_product_of_norms(name: str, i: int) -> None:
    ref = reference(name, i)
    key = next((k for k in ref.arrays if k.endswith("spectral_lip_sep")), None)
    if key is None:
        pytest.skip("no figure")
    network, everywhere = ref.network, rj.LpBall(ref.arrays["x"], rj.inf, ref.p)
    for k, theirs in enumerate(ref.arrays[key]):
        lip = rj.lipschitz(network.output(k), everywhere, p=ref.p, method=rj.ProductOfNorms(), search=ONLY_CENTRE)
        assert float(lip.upper[0]) == pytest.approx(float(theirs), rel=1e-6)


EXACT = [
    ("exact_relu_4_5_5_3", 1.0, 2.0, 6.771454513402937), ("exact_relu_4_5_5_3", 1.0, 1.0, 5.958048912394726),
    ("exact_relu_4_5_5_3", 1.0, rj.inf, 12.605085581416922), ("exact_relu_10_15_10_3", 0.1, 2.0, 9.530716922306004),
    ("exact_relu_10_15_10_3", 0.1, 1.0, 10.41286850374477), ("exact_relu_10_15_10_3", 0.1, rj.inf, 16.274810805318676),
    ("exact_relu_global_4_6_6_3", None, 2.0, 11.634355134114875),
    ("exact_relu_global_11_12_12_1", None, 2.0, 1.7433699967107172),
]  # fmt: skip


@pytest.mark.parametrize(("name", "width", "p", "exact"), EXACT)
def test_exact_constants_lie_between_the_bounds(name: str, width: float | None, p: float, exact: float) -> None:
    arrays = read(name)
    relu: list[AbstractActivation] = [ReLU(), ReLU()]
    network = dense(arrays, relu)
    n = network.input_shape[0]
    region = rj.LpBall(np.zeros(n), rj.inf) if width is None else rj.Box(np.zeros(n), np.full(n, width))
    for method in (None, rj.RecurJac(), rj.Reversed(rj.Chords()), rj.FastLip(), rj.ProductOfNorms()):
        lip = rj.lipschitz(network, region, p=p, q=p, method=method, search=ONLY_CENTRE)
        assert float(lip.upper[0]) >= exact * (1 - 1e-12)
    found = rj.lipschitz(network, region, p=p, q=p).lower
    assert float(found[0]) * (1 - 1e-12) <= exact
    assert float(found[0]) >= 0.95 * exact
