"""Networks that are a part of a file or module: one of several outputs, or everything up to a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.cli import main
from tests.torch_cases import Fn

X = torch.zeros(1, 4)
BALL = rj.LpBall(X, 1.0)


def jacobian(network: Any) -> tuple[Tensor, Tensor]:
    found = rj.jacobian_bounds(network, BALL, method=rj.Chords())
    return found.lower, found.upper


class Ranked(nn.Module):
    """Logits, and what depends on them: probabilities and a class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Any:
        logits = self.body(x)
        return {"class": torch.floor(logits), "more": (logits, logits.argmax(1)), "twice": logits * 2}


BODY = Ranked().body


@pytest.mark.parametrize("suffix", ["module", "file"])
def test_an_output_of_a_module_is_chosen(suffix: str, tmp_path: Path) -> None:
    source: Any = Ranked()
    if suffix == "file":
        torch.export.save(torch.export.export(source.eval(), (X,)), tmp_path / "m.pt2")
        source = tmp_path / "m.pt2"
    example = X if suffix == "module" else None
    network = rj.load(source, example, output_name="more.0")
    torch.testing.assert_close(jacobian(network), jacobian(rj.load(BODY, X)), rtol=1e-12, atol=1e-12)
    for name in ("linear_1", "relu"):
        cut, part = rj.load(source, example, cut_at=name), BODY if name == "linear_1" else BODY[:2]
        torch.testing.assert_close(jacobian(cut), jacobian(rj.load(part, X)), rtol=1e-12, atol=1e-12)
    with pytest.raises(rj.UnsupportedLayer, match=r"has 4 outputs \('class', 'more.0', .*: --output-name class"):
        rj.load(source, example)
    with pytest.raises(rj.UnsupportedLayer, match=r"aten.floor.default at node floor .*: --cut-at linear_1 "):
        rj.load(source, example, output_name="class")
    with pytest.raises(rj.InvalidRequest, match=r"has no output 'logits'; it has the outputs 'class', 'more.0'"):
        rj.load(source, example, output_name="logits")
    with pytest.raises(rj.InvalidRequest, match="no node 'linear1' to cut at; it has the nodes 'linear_1'"):
        rj.load(source, example, cut_at="linear1")


def test_a_tuple_is_numbered() -> None:
    network = rj.load(Fn(lambda _, x: (torch.floor(x), 2 * x)), X, output_name="1")
    torch.testing.assert_close(jacobian(network)[1][0], 2 * torch.eye(4).double())


def test_a_cut_before_an_operation_in_place_has_the_old_value() -> None:
    module = Fn(lambda _, x: (x * 2).add_(1).mul_(3).relu())
    for name, factor in (("mul", 2.0), ("add_", 2.0), ("mul_", 6.0)):
        torch.testing.assert_close(jacobian(rj.load(module, X, cut_at=name))[1][0], factor * torch.eye(4).double())
    chosen = rj.load(Fn(lambda _, x: ((y := x * 2), y.mul_(3), torch.floor(x))), X, output_name="0")
    torch.testing.assert_close(jacobian(chosen)[1][0], 6 * torch.eye(4).double())


class Floor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(self.inner(x))


def test_a_refusal_names_the_line_and_what_can_be_bounded() -> None:
    module = Floor()
    with pytest.raises(rj.UnsupportedLayer) as caught:
        rj.load(module, X)
    message = str(caught.value)
    assert "(test_ends.py, line " in message
    assert "torch.floor(self.inner(x))" in message
    assert message.endswith("; to bound what it reads: --cut-at linear (in Python, cut_at='linear')")
    cut, x = rj.load(module, X, cut_at="linear"), torch.ones(1, 4)
    torch.testing.assert_close(cut(x.double()), module.inner(x).double(), rtol=1e-6, atol=1e-6)


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.where(x)
        return torch.where(h > 0, h, 0.1 * h) + (h > 0)


def test_a_refused_comparison_names_what_it_compares() -> None:
    """Also where names and lines of the source speak of choices."""
    with pytest.raises(rj.UnsupportedLayer, match=r"^aten.add.Tensor at .* no derivative.*: --cut-at where "):
        rj.load(Elsewhere(), X)
    for cut in ("linear", "where"):
        assert rj.load(Elsewhere(), X, cut_at=cut).output_shape == (4,)
    with pytest.raises(rj.UnsupportedLayer, match="returns a comparison"):
        rj.load(Elsewhere(), X, cut_at="gt")
    with pytest.raises(rj.UnsupportedLayer, match=r"such a jump.*: --cut-at linear "):
        rj.load(nn.Sequential(nn.Linear(4, 4), Fn(lambda _, x: torch.where(x > 0, 1.0, 0.0))), X)


def test_what_has_no_nodes_has_no_part() -> None:
    layers = [(torch.eye(4), None)]
    for source in (layers, rj.load(layers, activation="relu")):
        with pytest.raises(rj.InvalidRequest, match="leave output_name and cut_at out"):
            rj.load(source, activation="relu", cut_at="relu")
    with pytest.raises(rj.InvalidRequest, match="give one of them"):
        rj.load(BODY, X, output_name="0", cut_at="relu")


# ONNX


def files(tmp_path: Path) -> dict[str, tuple[Path, Any]]:
    """Files that end in what has no derivative, or have two outputs, and the weight before."""
    from tests.onnx_models import model, node, value

    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    body = [node("MatMul", "x W", "a", name="first"), node("Relu", "a", "r", name="second")]
    made: dict[str, tuple[Path, Any]] = {}
    for name, nodes, outputs in (
        ("argmax", [*body, node("ArgMax", "r", "z", axis=1), node("Cast", "z", "y", to=1)], ["y"]),
        ("two", [*body, node("Sigmoid", "r", "y")], ["y", "r"]),
        ("round", [*body, node("Round", "r", "y", name="second")], ["y"]),
    ):
        shown = [value(o, None) for o in outputs]
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model(nodes, ["N", 4], {"W": weight}, 13, outputs=shown).SerializeToString())
        made[name] = (path, weight)
    return made


def test_the_end_of_a_file_is_chosen(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    made = files(tmp_path)
    weight = torch.from_numpy(made["two"][1]).double()
    right = torch.relu(weight.T)  # the slopes of ReLUs around 0 are between 0 and 1
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("argmax", {"cut_at": "second"}), ("argmax", {"cut_at": "r"}), ("two", {"output_name": "r"}),
        ("two", {"cut_at": "second"}), ("round", {"cut_at": "r"}),
    )  # fmt: skip
    for name, ends in cases:
        network = rj.load(made[name][0], **ends)
        torch.testing.assert_close(jacobian(network)[1][0], right, rtol=1e-12, atol=1e-12)
    assert jacobian(rj.load(made["two"][0], cut_at="first"))[0][0].equal(weight.T)
    assert [s.activation.name for s in rj.load(made["two"][0], output_name="y").stages][-2] == "sigmoid"


def test_a_refused_file_names_the_option(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    made = files(tmp_path)
    for name, words in (
        ("argmax", "ArgMax node that computes 'z'.*ranking.*: --cut-at second "),
        ("two", r"has 2 outputs \('y', 'r'\); choose one: --output-name y "),
        ("round", "the Round node 'second' is not supported.*: --cut-at r "),
    ):
        with pytest.raises(rj.UnsupportedLayer, match=words):
            rj.load(made[name][0])
    with pytest.raises(rj.InvalidRequest, match="2 nodes are called 'second'"):
        rj.load(made["round"][0], cut_at="second")
    with pytest.raises(rj.InvalidRequest, match="no node 'secnd' to cut at; it has the nodes 'second'"):
        rj.load(made["two"][0], cut_at="secnd")


def test_the_commands_take_ends_and_fixed_inputs(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = files(tmp_path)["argmax"][0]
    np.savetxt(tmp_path / "x.csv", np.zeros((1, 4)), delimiter=",", header="a,b,c,d", comments="")
    command = [
        "monotone", str(path), "--cut-at", "first", "--fix", "1=0.5", "3=-1", "--input", str(tmp_path / "x.csv"),
        "--radius", "0.1", "--json", str(tmp_path / "out.json"), "--quiet",
    ]  # fmt: skip
    assert main(command) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    told = json.dumps(report["results"])
    assert '"a"' in told
    assert '"c"' in told
    assert '"b"' not in told
    with pytest.raises(SystemExit, match="2"):
        main([*command[:5], "1=x", *command[6:]])
    assert main([*command[:5], "1=1", "1=2", *command[7:]]) == 2
    assert main([*command[:5], "9=1", *command[7:]]) == 2


def test_fixed_inputs_are_dropped_from_boxes_and_points(tmp_path: Path) -> None:
    """Bounds by the command are those of `net.fix`, with or without the fixed features in the file."""
    torch.manual_seed(0)
    np.savez(tmp_path / "net.npz", W0=np.eye(3), W1=np.ones((2, 3)), activation="tanh")
    box = "".join(f"(declare-fun X_{i} () Real)(assert (>= X_{i} {i}))(assert (<= X_{i} {i + 1}))" for i in range(3))
    (tmp_path / "box.vnnlib").write_text(box)
    np.save(tmp_path / "x.npy", np.array([[0.5, 2.5]]))
    right = rj.jacobian_bounds(
        rj.load(tmp_path / "net.npz").fix({1: 0.25}), rj.Box(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]])),
        method=rj.Chords(),
    )  # fmt: skip
    for source in ("box.vnnlib", "x.npy"):
        radius = ["--radius", "0.5"] if source == "x.npy" else []
        found = tmp_path / "bounds.npz"
        command = ["jacobian", str(tmp_path / "net.npz"), "--fix", "1=0.25", "--input", str(tmp_path / source), *radius]
        assert main([*command, "--method", "chords", "--output", str(found), "--quiet"]) == 0
        bounds = np.load(found)
        np.testing.assert_allclose(bounds["upper"], right.upper.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(bounds["lower"], right.lower.detach().numpy(), rtol=1e-12)
