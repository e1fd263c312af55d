"""The steps of `Auto`, in their order."""

from __future__ import annotations

from recurjac.auto.conditions import (
    unless_many_kinks,
    unless_smooth_and_small,
    where_few_kinks,
    where_kinked,
    where_large,
    where_large_products,
    where_looped,
    where_many_in_l1,
    where_many_kinks,
    where_row_sums_of_closed_forms,
    where_smooth,
    where_smooth_and_small,
    where_smooth_at_once,
    where_some_kinks,
    where_turned_closed_forms,
)
from recurjac.auto.opening import NOISES
from recurjac.auto.step import AbstractStep
from recurjac.auto.steps import (
    BranchStep,
    ExactStep,
    ForwardStep,
    LinearNetworkStep,
    NormStep,
    RangeStep,
    SearchStep,
    untied_by_intervals,
)
from recurjac.jacobian import (
    Centred,
    Chords,
    ClosedForms,
    FastLip,
    ForwardTangents,
    GradientForms,
    InTime,
    QuadraticClamped,
    RecurJac,
    Reversed,
    ReversedAfterFirst,
    XLinear,
)
from recurjac.norms import (
    CoupledNorm,
    JacobianNorm,
    PatternSum,
    ProductOfNorms,
    QuadraticNorm,
    SplitNorm,
    TurnedNorm,
)
from recurjac.preactivation import DualRanges, SecantRanges

_CLOSED = ClosedForms(Chords())
"""A quick method that knows closed forms."""
_DUALS = DualRanges(40, 8, 8), DualRanges(60, 40, 60, last=12), DualRanges(100, 100, 100)
"""Ranges by the quadratic dual, with growing effort."""

OPENING: tuple[AbstractStep, ...] = (
    NormStep(JacobianNorm(FastLip()), where=where_large, passes=0),
    LinearNetworkStep(),
    NormStep(JacobianNorm(GradientForms()), where=where_large_products, passes=0),
    NormStep(JacobianNorm(InTime()), where=where_large, passes=0),
    NormStep(JacobianNorm()),
    NormStep(ProductOfNorms(), passes=0),
)
"""The steps that come first, if they fit in the time."""
STEPS: tuple[AbstractStep, ...] = (
    BranchStep(where=unless_smooth_and_small),
    BranchStep(method=TurnedNorm(ForwardTangents(NOISES)), where=where_looped, passes=0, parts=untied_by_intervals),
    BranchStep(method=TurnedNorm(), where=where_smooth_and_small, passes=5),
    SearchStep(),
    NormStep(
        JacobianNorm(_CLOSED, PatternSum(3)),
        JacobianNorm(_CLOSED, PatternSum(6)),
        where=where_row_sums_of_closed_forms,
        passes=0,
    ),
    NormStep(TurnedNorm(_CLOSED), where=where_turned_closed_forms, passes=0),
    ExactStep(),
    BranchStep(64, method=JacobianNorm(XLinear()), where=where_many_in_l1),
    RangeStep(*_DUALS, where=where_many_kinks),
    RangeStep(SecantRanges(10), SecantRanges(30), SecantRanges(100), where=unless_many_kinks),
    NormStep(QuadraticNorm(20), QuadraticNorm(60), QuadraticNorm(250), matrices=True),
    NormStep(
        JacobianNorm(XLinear()),
        JacobianNorm(XLinear(10)),
        JacobianNorm(XLinear(40)),
        where=where_smooth_at_once,
        passes=5,
    ),
    NormStep(
        JacobianNorm(Centred()),
        JacobianNorm(Centred(150)),
        JacobianNorm(Centred(600)),
        matrices=True,
        where=where_smooth_at_once,
    ),
    NormStep(SplitNorm(20, 1000), SplitNorm(20, 5000), SplitNorm(20, 20000), matrices=True, where=where_few_kinks),
    RangeStep(*_DUALS, most=0.7, where=unless_many_kinks),
    NormStep(JacobianNorm(QuadraticClamped()), matrices=True),
    NormStep(CoupledNorm(150), CoupledNorm(400), CoupledNorm(1500), matrices=True, where=where_kinked),
    ForwardStep(Reversed(Chords())),
    ForwardStep(ReversedAfterFirst(RecurJac())),
    ForwardStep(Reversed(RecurJac())),
    ForwardStep(ForwardTangents(), where_smooth, quick=False),
    NormStep(SplitNorm(10, 2**20), matrices=True, where=where_some_kinks, late=True),
)
"""The steps after the first bounds; each is tried in this order, then those that pay most per second go on."""
