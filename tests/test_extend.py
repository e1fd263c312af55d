"""Classes from outside the package work everywhere, and the package's checks tell right from wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.cli import main
from recurjac.extend import (
    AbstractArithmetic,
    AbstractBrancher,
    AbstractConvex,
    AbstractJacobianMethod,
    AbstractNormMethod,
    AbstractPreactivation,
    AbstractRecursion,
    Interval,
    LinearRelaxation,
)
from recurjac.loading.expression import Builder
from recurjac.operators import AbstractOperator, Dense
from tests.helpers import examples
from tests.marks import some_kinds
from tests.outside import FlatLines, Frobenius, Magnitudes, SignBrancher, SquaredReLU


def squared_network() -> rj.Network:
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(b, a, generator=g, dtype=torch.float64) / 2 for a, b in ((4, 6), (6, 6), (6, 2))]
    builder = Builder((4,), False, torch.float64, torch.device("cpu"))
    h = builder.input()
    for w in weights[:-1]:
        h = h.apply(Dense.matrix(w)).activate(SquaredReLU())
    return builder.finish(h.apply(Dense.matrix(weights[-1])))


def test_an_activation_from_outside() -> None:
    testing.check_activation(SquaredReLU())
    network, region = squared_network(), rj.LpBall(torch.ones(1, 4, dtype=torch.float64) / 2, 0.2)
    lip, points = rj.lipschitz(network, region), region.bind((4,), torch.float64, torch.device("cpu"))
    true = testing.true_jacobians(network, points.sample(200, torch.Generator().manual_seed(0))[0])
    assert float(true.abs().sum(-1).max()) <= float(lip.upper) * (1 + 1e-12)
    assert 0 < float(lip.lower) <= float(lip.upper)


def test_a_weight_list_names_an_activation_from_outside() -> None:
    network = rj.load([(torch.eye(2), None), (torch.eye(2), None)], activation="outside_squared_relu")
    assert network.stages[0].activation == SquaredReLU()


def test_two_activations_of_one_name_are_refused() -> None:
    """Which of them a file means would be a guess, hence bounds of another network."""
    code = (
        "import recurjac as rj, torch\n"
        "from tests.outside import SquaredReLU as First\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Second(First.__base__):\n"
        "    name = 'outside_squared_relu'\n"
        "    value = First.value\n"
        "    slope = First.slope\n"
        "    examples = First.examples\n"
        "layers = [(torch.eye(2), None), (torch.eye(2), None)]\n"
        "rj.load(layers, activation='relu')\n"
        "try:\n"
        "    rj.load(layers, activation='outside_squared_relu')\n"
        "except rj.InvalidNetwork as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)  # noqa: S603
    assert (
        "several activations are named 'outside_squared_relu': __main__.Second, tests.outside.SquaredReLU"
        in done.stdout
    )


@some_kinds
def test_methods_from_outside(kinds: tuple[str, ...]) -> None:
    testing.check_jacobian_method(Magnitudes(), kinds=kinds)
    testing.check_norm_method(Frobenius(), kinds=kinds)
    testing.check_norm_method(rj.TightestNorm(Frobenius(), rj.JacobianNorm()), kinds=kinds)
    testing.check_preactivation(FlatLines(), kinds=kinds)
    testing.check_preactivation(rj.Refine(rj.IBP(), FlatLines()), kinds=kinds)
    testing.check_brancher(SignBrancher(), kinds=kinds)
    testing.check_brancher(rj.InputBisection(), kinds=kinds)


def test_methods_from_outside_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("net.npz", W0=np.eye(3), W1=np.ones((2, 3)), activation="relu")
    np.save("x.npy", np.full((1, 3), 0.5))
    common = ("lipschitz", "net.npz", "--input", "x.npy", "--radius", "0.1", "--quiet", "--json", "r.json")
    for name, norm in (
        ("tests.outside:magnitudes", "inf"),
        ("tests.outside:Magnitudes", "1"),
        ("tests.outside:Frobenius", "2"),
    ):
        assert main([*common, "--method", name, "--norm", norm]) == 0
        (row,) = json.loads(Path("r.json").read_text())["results"]
        assert row["upper"] >= row["lower"] > 0
    assert main([*common, "--pre", "tests.outside:FlatLines"]) == 0
    for wrong, words in (
        ("tests.outside:nothing", "no such object"), ("tests.outside:SquaredReLU", "it must be an object of"),
        ("nosuch", "package.module:object"), ("tests.outside:Frobenius", "does not bound the norm"),
    ):  # fmt: skip
        assert main([*common, "--method", wrong]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("operator", examples(AbstractOperator))
def test_operators_of_the_package(operator: AbstractOperator) -> None:
    if type(operator).__name__ in ("Divide", "Standardise"):
        pytest.skip("its coefficients are not floating-point numbers")
    testing.check_operator(operator)


@some_kinds
@pytest.mark.parametrize("method", [rj.Chords(), rj.RecurJac(), rj.FastLip(), rj.Reversed(rj.Chords())], ids=repr)
def test_methods_of_the_package(method: AbstractJacobianMethod, kinds: tuple[str, ...]) -> None:
    testing.check_jacobian_method(method, 7, kinds)


@some_kinds
@pytest.mark.parametrize("method", [rj.JacobianNorm(), rj.ProductOfNorms()], ids=repr)
def test_norm_methods_of_the_package(method: AbstractNormMethod, kinds: tuple[str, ...]) -> None:
    testing.check_norm_method(method, 8, kinds)


@some_kinds
@pytest.mark.parametrize("rule", [rj.IBP(), rj.FastLin(), rj.Crown()], ids=repr)
def test_rules_of_the_package(rule: AbstractPreactivation, kinds: tuple[str, ...]) -> None:
    testing.check_preactivation(rule, 9, kinds)


# The checks can fail


@final
@dataclass(frozen=True)
class TooFlat(AbstractConvex):
    """A slope of the wrong size."""

    name: ClassVar[str] = "too_flat"

    def value(self, z: Tensor) -> Tensor:
        return z.clamp(min=0).square()

    def slope(self, z: Tensor) -> Tensor:
        return z.clamp(min=0)

    @classmethod
    def examples(cls) -> list[Self]:
        return []


@final
@dataclass(frozen=True)
class Hopeful(AbstractRecursion):
    """Chords whose upper intercepts are a tenth too small."""

    @classmethod
    def command_names(cls) -> dict[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return "hopeful"

    def lines(self, y: Interval, slope: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        lines = rj.Chords().lines(y, slope, arithmetic)
        return replace(lines, upper_intercept=0.9 * lines.upper_intercept, lower_intercept=0.9 * lines.lower_intercept)


@final
@dataclass(frozen=True)
class Halved(AbstractBrancher):
    """Forgets every second part."""

    @property
    def title(self) -> str:
        return "halved"

    def supports(self, problem: rj.Problem) -> bool:
        return True

    def divide(self, problem: rj.Problem) -> list[rj.Problem]:
        return rj.InputBisection().divide(problem)[:1]


@final
@dataclass(frozen=True)
class HalfRows(AbstractNormMethod):
    """Norms that are right, and rows that are not."""

    @classmethod
    def command_names(cls) -> dict[str, AbstractNormMethod]:
        return {}

    @property
    def title(self) -> str:
        return "half rows"

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: rj.Gradients, p: float, q: float) -> Tensor:
        return rj.JacobianNorm().norm(gradients, p, q)

    def rows(self, gradients: rj.Gradients, p: float) -> Tensor:
        return 0.5 * rj.JacobianNorm().rows(gradients, p)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


def test_wrong_classes_are_told() -> None:
    with pytest.raises(AssertionError, match="too_flat"):
        testing.check_activation(TooFlat())
    with pytest.raises(AssertionError, match="hopeful: a true Jacobian is outside"):
        testing.check_jacobian_method(Hopeful())
    with pytest.raises(AssertionError, match="half rows: a row has an l"):
        testing.check_norm_method(HalfRows())
    with pytest.raises(AssertionError, match="halved: a point of the region is in no part"):
        testing.check_brancher(Halved())


def test_the_whole_space_is_among_the_problems() -> None:
    assert any(float(p.bound.scale.max()) > 5 and bool(p.bound.unbounded.any()) for p in testing.problems())
    assert inf in {r for r, _ in testing.methods.BALLS}
