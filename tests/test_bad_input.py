"""Wrong requests: one line that names the thing and its value, before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recurjac as rj
from recurjac.activations import LeakyReLU, PReLU
from recurjac.cli import main

MODULES = """
import torch
from torch import nn

number = 3
def returns(): return number
def needs(size): return nn.Linear(size, 1)
def fails(): raise RuntimeError("first line\\nsecond line")
def linear(): return nn.Linear(4, 2)
class Branching(nn.Module):
    def forward(self, x): return x if x.sum() > 0 else -x
class Noisy(nn.Module):
    def forward(self, x): return x + torch.randn(4)
"""
G = np.random.default_rng(0)
W0, W1 = G.normal(size=(5, 4)), G.normal(size=(3, 5))


def npz(name: str, **arrays: Any) -> None:
    """A network with 4 inputs, 5 neurons and 3 outputs, with these arrays beside or instead of its own."""
    own: dict[str, Any] = {"W0": W0, "W1": W1, "activation": "relu"}
    np.savez(name, **{k: v for k, v in {**own, **arrays}.items() if v is not None})


def spoiled(array: Any, value: float) -> Any:
    changed = np.array(array)
    changed[-1, -1] = value
    return changed


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory, with good and bad files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    npz("net.npz")
    x = np.random.default_rng(1).random((3, 4))
    np.save("x.npy", x)
    np.save("x5.npy", np.ones((2, 5)))
    np.save("empty.npy", np.zeros((0, 4)))
    np.save("nan.npy", spoiled(x, nan))
    np.save("inf.npy", spoiled(x, -inf))
    Path("box.vnnlib").write_text("\n".join(f"(declare-const X_{i} Real)\n(assert (<= X_{i} 0.5))" for i in range(4)))
    for name in ("model.onnx", "model.pt2", "model", "text.npz"):
        Path(name).write_text("no network\nat all")
    Path("zero.npz").touch()
    Path("cut.npz").write_bytes(Path("net.npz").read_bytes()[:300])
    with Path("array.npz").open("wb") as file:
        np.save(file, W0)
    Path("folder").mkdir()
    Path("recurjac_bad_modules.py").write_text(MODULES)
    Path("recurjac_bad_syntax.py").write_text("def f(:\n")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must be refused before any work; its message."""

    def no_work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    for module, name in (("bounds", "lipschitz"), ("bounds", "jacobian_bounds"), ("demo", "lipschitz")):
        monkeypatch.setattr(f"recurjac.cli.{module}.{name}", no_work)

    def once(*args: object, code: int = 2) -> str:
        try:
            left = main([str(a) for a in args])
        except SystemExit as leaving:  # what argparse refuses: its usage, then one line
            left = int(leaving.code or 0)
            out, err = capsys.readouterr()
            assert err.startswith("usage: ")
            err = err.splitlines()[-1] + "\n"
            prefix = f"recurjac {args[0]}: error: argument "
        else:
            out, err = capsys.readouterr()
            prefix = f"recurjac {args[0]}: "
        assert (left, out) == (code, "")
        assert err.startswith(prefix)
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in err
        return err

    return once


Refused = Callable[..., str]
MODEL: dict[str, tuple[str, tuple[str, ...]]] = {
    "missing": ("none.npz", ("none.npz", "no file")),
    "a directory": ("folder", ("folder", "no file")),
    "text": ("text.npz", ("text.npz", "does not begin as a .npz")),
    "nothing": ("zero.npz", ("zero.npz", "does not begin as a .npz")),
    "truncated": ("cut.npz", ("cut.npz", "not a readable .npz")),
    "one array": ("array.npz", ("array.npz", "does not begin as a .npz")),
    "onnx": ("model.onnx", ("model.onnx", "not a readable ONNX file")),
    "pt2": ("model.pt2", ("model.pt2", "not a readable .pt2 file")),
    "no suffix": ("model", ("model", "(none)", ".npz")),
    "no package": ("recurjac_none:f", ("recurjac_none:f", "no such function", "No module named")),
    "no function": ("recurjac_bad_modules:none", ("recurjac_bad_modules:none", "no such function")),
    "no name": (":f", (":f", "no such function")),
    "relative": (".a:f", (".a:f", "no such function")),
    "key": ("net.npz:W0", ("net.npz:W0", "no such function")),
    "syntax": ("recurjac_bad_syntax:f", ("recurjac_bad_syntax:f", "invalid syntax")),
    "no module": ("recurjac_bad_modules:returns", ("recurjac_bad_modules:returns", "int", "torch.nn.Module")),
    "no callable": ("recurjac_bad_modules:number", ("recurjac_bad_modules:number", "not callable")),
    "arguments": ("recurjac_bad_modules:needs", ("recurjac_bad_modules:needs", "'size'", "without arguments")),
    "raises": ("recurjac_bad_modules:fails", ("recurjac_bad_modules:fails", "first line;")),
    "no example": ("recurjac_bad_modules:linear", ("example input", "--input-shape")),
}


@pytest.mark.parametrize("case", MODEL)
def test_a_model_that_is_none(case: str, refused: Refused) -> None:
    model, words = MODEL[case]
    message = refused("inspect", model)
    assert not [w for w in words if w not in message]


NETWORK: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no W0": ({"W0": None}, ("bad.npz", "W0", "W1")),
    "a gap": ({"W1": None, "W2": W1}, ("bad.npz", "W0", "W2")),
    "objects": ({"W0": np.array([[None]], dtype=object)}, ("bad.npz", "not a readable")),
    "object bias": ({"b0": np.array([None] * 5, dtype=object)}, ("bad.npz", "not a readable")),
    "strings": ({"W0": np.array([["a"]])}, ("layer 0", "numbers")),
    "complex": ({"W1": W1 * 1j}, ("layer 1", "complex")),
    "a vector": ({"W0": np.ones(4)}, ("W0", "(4,)")),
    "shapes": ({"W1": W1[:, :4]}, ("W1 has 4 columns", "5 rows")),
    "bias": ({"b1": np.ones(4)}, ("b1 has 4 numbers", "3 rows")),
    "NaN": ({"W0": spoiled(W0, nan)}, ("stage 1", "NaN or infinite")),
    "infinite": ({"W1": spoiled(W1, inf)}, ("stage 2", "NaN or infinite")),
    "infinite bias": ({"b1": np.array([0, -inf, 0])}, ("stage 2", "NaN or infinite")),
    "not stated": ({"activation": None}, ("activation is not stated", "--activation", "leaky_relu", "tanh")),
    "unknown": ({"activation": "swish"}, ("'swish'", "not known", "leaky_relu", "tanh")),
    "a number": ({"activation": 3}, ("'3'", "not known")),
    "too many": ({"activation": ["relu", "tanh"]}, ("2 activations", "1 hidden")),
    "no slope": ({"activation": "leaky_relu"}, ("leaky_relu", "slope")),
    "two slopes": ({"activation": "leaky_relu", "slope": [0.1, 0.2]}, ("leaky_relu", "[0.1 0.2]")),
    "slope text": ({"activation": "leaky_relu", "slope": "steep"}, ("leaky_relu", "steep")),
    "slope NaN": ({"activation": "leaky_relu", "slope": nan}, ("leaky_relu", "nan", "finite")),
    "slopes": ({"activation": "prelu", "slope": [0.1, 0.2, 0.3]}, ("prelu", "layer 0", "5 neurons")),
    "slopes NaN": ({"activation": "prelu", "slope": nan}, ("stage 1", "prelu", "NaN")),
    "alpha": ({"activation": "elu", "alpha": -1.0}, ("elu", "-1.0", "positive")),
    "beta": ({"activation": "softplus", "beta": 0}, ("softplus", "0.0", "positive")),
}


@pytest.mark.parametrize("case", NETWORK)
def test_a_network_that_is_none(case: str, refused: Refused) -> None:
    arrays, words = NETWORK[case]
    npz("bad.npz", **arrays)
    message = refused("inspect", "bad.npz")
    assert not [w for w in words if w not in message]


REGION: dict[str, tuple[str, tuple[str, ...]]] = {
    "no radius": ("--input x.npy", ("--radius is missing",)),
    "no file": ("--input none.npy --radius 1", ("none.npy", "no file")),
    "a directory": ("--input folder --radius 1", ("folder", "no file")),
    "no input": ("--input model --radius 1", ("model", "(none)", ".npy")),
    "shape": ("--input x5.npy --radius 1", ("x5.npy", "(5,)", "(4,)")),
    "empty batch": ("--input empty.npy --radius 1", ("empty.npy", "(0, 4)")),
    "NaN": ("--input nan.npy --radius 1", ("nan at index [2, 3]",)),
    "infinite": ("--input inf.npy --radius 1", ("-inf at index [2, 3]",)),
    "negative": ("--input x.npy --radius -0.5", ("radius", "-0.5")),
    "radius NaN": ("--input x.npy --radius nan", ("--radius", "nan")),
    "radius text": ("--input x.npy --radius wide", ("--radius", "'wide'")),
    "no number": ("--input x.npy --radius", ("--radius",)),
    "outside": ("--input x.npy --radius 1 --clip 5 6", ("outside the clip box", "x[0, 0] = ")),
    "empty clip": ("--input x.npy --radius 1 --clip 1 -1", ("clip box is empty", "from 1.0 to -1.0")),
    "clip NaN": ("--input x.npy --radius 1 --clip nan 1", ("--clip", "nan")),
    "index": ("--input x.npy --radius 1 --index 0 3", ("--index 3", "x.npy", "0 to 2")),
    "negative index": ("--input x.npy --radius 1 --index -1", ("--index -1", "0 to 2")),
    "index text": ("--input x.npy --radius 1 --index a", ("--index", "'a'")),
    "divide 0": ("--input x.npy --radius 1 --divide 0", ("--divide 0.0", "positive")),
    "divide inf": ("--input x.npy --radius 1 --divide inf", ("--divide inf", "finite")),
    "norm": ("--input x.npy --radius 1 --norm 3", ("--norm", "'3'", "inf, 2 or 1")),
    "class": ("--input x.npy --radius 1 --class 3", ("class 3", "0 to 2")),
    "negative class": ("--input x.npy --radius 1 --class -1", ("--class", "'-1'")),
    "class text": ("--input x.npy --radius 1 --class cat", ("--class", "'cat'")),
    "same classes": ("--input x.npy --radius 1 --margin 1 1", ("classes 1 and 1", "0 to 2")),
    "margin": ("--input x.npy --radius 1 --margin 0 7", ("classes 0 and 7", "0 to 2")),
    "both": ("--input x.npy --radius 1 --margin 0 1 --class 1", ("--class", "--margin")),
    "method": ("--input x.npy --radius 1 --method best", ("--method", "'best'", "recurjac-f0")),
    "rule": ("--input x.npy --radius 1 --pre best", ("--pre", "'best'", "crown")),
    "dtype": ("--input x.npy --radius 1 --dtype float16", ("--dtype", "'float16'")),
    "narrow": ("--input x.npy --radius 1 --dtype float32", ("weights are not torch.float32",)),
    "device": ("--input x.npy --radius 1 --device abacus", ("'abacus'", "cannot be used")),
    "no numbers": ("--input x.npy --radius 1 --device meta", ("'meta'", "cannot be used")),
    "json": ("--input x.npy --radius 1 --json none/r.json", ("--json none/r.json", "no directory none")),
    "json folder": ("--input x.npy --radius 1 --json folder", ("--json 'folder'", "not a file name")),
    "box radius": ("--input box.vnnlib --radius 1", ("--radius", ".vnnlib")),
    "box clip": ("--input box.vnnlib --clip 0 1", ("--clip", ".vnnlib")),
    "box divide": ("--input box.vnnlib --divide 2", ("--divide", ".vnnlib")),
}


@pytest.mark.parametrize("command", ["lipschitz", "jacobian"])
@pytest.mark.parametrize("case", REGION)
def test_a_request_that_makes_no_sense(case: str, command: str, refused: Refused) -> None:
    arguments, words = REGION[case]
    message = refused(command, "net.npz", *arguments.split())
    assert not [w for w in words if w not in message]


OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plot": ("demo --plot a.xyz", ("a.xyz", ".png")),
    "plot folder": ("demo --plot none/a.png", ("--plot none/a.png", "no directory none")),
    "plot is one": ("demo --plot folder", ("--plot 'folder'",)),
    "digit": ("demo --digit 10", ("--digit 10", "0 to 9")),
    "demo radius": ("demo --radius 0.1 -1", ("radius", "-1.0")),
    "demo json": ("demo --json none/r.json", ("--json none/r.json",)),
    "output": ("jacobian net.npz --input x.npy --radius 1 --output none/b.npz", ("--output none/b.npz", "none")),
    "output folder": ("jacobian net.npz --input x.npy --radius 1 --output folder", ("--output 'folder'",)),
    "each": ("jacobian net.npz --input x.npy --radius 1 --class each", ("--class each",)),
    "output norm": ("lipschitz net.npz --input x.npy --radius 1 --output-norm 0", ("--output-norm", "'0'")),
    "input shape": ("inspect recurjac_bad_modules:linear --input-shape 0", ("--input-shape 0", "1 or more")),
    "wrong shape": ("inspect recurjac_bad_modules:linear --input-shape 5", ("(5,)",)),
    "branching": ("inspect recurjac_bad_modules:Branching --input-shape 4", ("torch.export", "data")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_requests_of_single_commands(case: str, refused: Refused) -> None:
    command, words = OTHERS[case]
    message = refused(*command.split())
    assert not [w for w in words if w not in message]
    assert not Path("recurjac-demo.png").exists()


def test_failures_of_a_run_have_code_1(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "differ by" in refused("inspect", "recurjac_bad_modules:Noisy", "--input-shape", 4, code=1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "r.json")

    monkeypatch.setattr("recurjac.cli.inspection.write_json", full)
    message = refused("inspect", "net.npz", "--json", "r.json", "--quiet", code=1)
    assert message == "recurjac inspect: r.json: No space left on device\n"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recurjac.cli.inspection.write_json", interrupted)
    assert refused("inspect", "net.npz", "--quiet", code=1) == "recurjac inspect: interrupted\n"


def test_a_process_writes_one_line() -> None:
    """PyTorch logs a traceback of its own where it cannot trace a module; a user does not see it."""
    here = {**os.environ, "PYTHONPATH": str(Path(rj.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recurjac", "inspect", "recurjac_bad_modules:linear", "--input-shape", "5"]
    done = subprocess.run(command, capture_output=True, env=here, check=False, text=True)  # noqa: S603
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("recurjac inspect: the module fails on a batch of one input of shape (5,)")
    assert "shapes cannot be multiplied" in done.stderr
    assert "control flow" not in done.stderr


# Python


def _net(activation: Any = "relu") -> rj.Network:
    return rj.load([(W0, None), (W1, None)], activation=activation)


def _over(x: Any, radius: Any = 0.1, p: float = inf, **how: Any) -> Any:
    return rj.lipschitz(_net(), rj.LpBall(x, radius, p), **how)


class _Nothing(nn.Module):
    """A module without outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :0]


PYTHON: dict[str, tuple[Callable[[], Any], type[Exception], type[Exception], tuple[str, ...]]] = {
    "centre NaN": (lambda: rj.LpBall([0, nan], 1), rj.InvalidRegion, ValueError, ("nan at index [1]",)),
    "centre text": (lambda: rj.LpBall("a", 1), rj.InvalidRegion, ValueError, ("centre x",)),
    "centre empty": (lambda: rj.LpBall(np.zeros((0, 4)), 1), rj.InvalidRegion, ValueError, ("(0, 4)",)),
    "centre complex": (lambda: rj.LpBall(torch.ones(2) * 1j, 1), rj.InvalidRegion, ValueError, ("centre x", "complex")),
    "list complex": (lambda: rj.LpBall([0.0, 1j], 1), rj.InvalidRegion, ValueError, ("centre x", "complex")),
    "array complex": (lambda: rj.Box(np.ones(2) * 1j, [1, 1]), rj.InvalidRegion, ValueError, ("complex",)),
    "radius": (lambda: rj.LpBall([0.0], -2), rj.InvalidRegion, ValueError, ("radius", "-2.0")),
    "radius NaN": (lambda: rj.LpBall([0.0], nan), rj.InvalidRegion, ValueError, ("radius", "nan")),
    "norm": (lambda: rj.LpBall([0.0], 1, 3), rj.InvalidRegion, ValueError, ("p=3", "1, 2 or inf")),
    "clip": (lambda: rj.LpBall([0.0], 1, clip=(1, 0)), rj.InvalidRegion, ValueError, ("from 1.0 to 0.0",)),
    "outside": (lambda: rj.LpBall([7.0], 1, clip=(0, 1)), rj.InvalidRegion, ValueError, ("x[0] = 7.0", "clip")),
    "box": (lambda: rj.Box([0, 2.0], [1, 1.0]), rj.InvalidRegion, ValueError, ("index [1]", "from 2.0 to 1.0")),
    "box shapes": (lambda: rj.Box([0.0], [1.0, 2.0]), rj.InvalidRegion, ValueError, ("(1,)", "(2,)")),
    "shape": (lambda: _over(np.zeros((2, 5))), rj.InvalidRegion, ValueError, ("(2, 5)", "(4,)")),
    "radius shape": (lambda: _over(np.zeros((2, 4)), np.ones(3)), rj.InvalidRegion, ValueError, ("(3,)", "2 samples")),
    "radii": (lambda: _over(np.zeros(4), np.ones(4), 2), rj.InvalidRegion, ValueError, ("p=inf", "p=2")),
    "lipschitz p": (lambda: _over(np.zeros(4), q=0), rj.InvalidRequest, ValueError, ("output norm 0",)),
    "class": (lambda: _net().output(3), rj.InvalidRequest, ValueError, ("class 3", "0 to 2")),
    "margin": (lambda: _net().margin(1, 1), rj.InvalidRequest, ValueError, ("1 and 1", "0 to 2")),
    "no methods": (lambda: rj.Intersection(), rj.InvalidRequest, ValueError, ("at least one",)),
    "dtype": (lambda: rj.load("net.npz", dtype=torch.float16), rj.InvalidRequest, ValueError, ("torch.float16",)),
    "device": (lambda: rj.load("net.npz", device="x"), rj.InvalidRequest, ValueError, ("'x'",)),
    "file": (lambda: rj.load("none.npz"), rj.UnreadableFile, OSError, ("none.npz",)),
    "suffix": (lambda: rj.load(Path("model")), rj.InvalidRequest, ValueError, ("model", ".pt2", ".onnx", ".npz")),
    "no layers": (lambda: rj.load([]), rj.InvalidNetwork, ValueError, ("empty",)),
    "no numbers": (lambda: rj.load([("a", None)]), rj.InvalidNetwork, ValueError, ("layer 0", "(W, b)")),
    "no activation": (lambda: _net(None), rj.InvalidNetwork, ValueError, ("activation=",)),
    "slope": (lambda: _net(LeakyReLU(nan)), rj.InvalidNetwork, ValueError, ("leaky_relu", "nan")),
    "slopes": (lambda: _net(PReLU(torch.ones(3))), rj.InvalidNetwork, ValueError, ("prelu", "5 neurons")),
    "names": (lambda: _net(["relu", "tanh"]), rj.InvalidNetwork, ValueError, ("2 activations", "1 hidden")),
    "no example": (lambda: rj.load(nn.Linear(2, 2)), rj.InvalidNetwork, ValueError, ("load(module, example)",)),
    "scalar": (lambda: rj.load(nn.Linear(2, 2), 1.0), rj.InvalidNetwork, ValueError, ("shape ()",)),
    "no batch": (lambda: rj.load(nn.Linear(2, 2), torch.ones(0, 2)), rj.InvalidNetwork, ValueError, ("(0, 2)",)),
    "no output": (lambda: rj.load(_Nothing(), torch.ones(1, 2)), rj.InvalidNetwork, ValueError, ("(0,)", "output")),
    "text": (lambda: rj.load(nn.Linear(2, 2), "12"), rj.InvalidNetwork, ValueError, ("'str'",)),
    "layer": (
        lambda: rj.load(nn.Softplus(threshold=1), torch.ones(1, 2)), rj.UnsupportedLayer, NotImplementedError,
        ("softplus",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PYTHON)
def test_python_raises_the_documented_error(case: str) -> None:
    request, error, builtin, words = PYTHON[case]
    with pytest.raises(error) as caught:
        request()
    message = str(caught.value)
    assert type(caught.value) is error
    assert isinstance(caught.value, builtin)
    assert "\n" not in message
    assert not message.endswith((".", ":", " "))
    assert not [w for w in words if w not in message]


LIMITS = """
import torch, recurjac as rj
net = rj.load([(torch.eye(2).double(), torch.zeros(2).double())] * 2, activation="tanh")
ball = rj.LpBall(torch.zeros(1, 2).double(), 0.1)
for limit in (5, "a", {}):
    for ask in (
        lambda: rj.contraction_rate(net, ball, limit=limit), lambda: rj.monotone(net, ball, limit=limit),
        lambda: rj.curvature(net, ball, output=0, limit=limit),
    ):
        try:
            ask()
        except rj.InvalidRequest as error:
            print(error)
"""


def test_limits_that_are_none_are_refused() -> None:
    """In a process of its own, in which types are not checked for the tests."""
    done = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True, check=False)  # noqa: S603
    kinds = [kind for kind in ("int", "str", "dict") for _ in range(3)]
    assert done.stdout.splitlines() == [f"the limit is a {kind}; give Limit(seconds=…)" for kind in kinds]
