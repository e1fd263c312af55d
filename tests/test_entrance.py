"""Files and modules with several inputs or axes of open size, and branches whose condition is known."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.cli import main
from recurjac.loading.entrance import Entrance
from tests.helpers import refused

onnx = pytest.importorskip("onnx")
from tests.onnx_models import DOUBLE, FLOAT, INT64, helper, model, node, tensor, value  # noqa: E402  (it may skip)

BOOL = 9


def saved(path: Path, made: Any) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def jacobian(network: Any, x: Tensor) -> Tensor:
    """The true Jacobian at x, by autograd."""
    found: Tensor = torch.autograd.functional.jacobian(lambda v: network(v[None])[0], x[0])
    return found


# Axes of open size


def pooled(shape: Any) -> Any:
    """Convolution, ReLU, means over all positions, and a dense layer: any size of image."""
    g = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "f"), node("MatMul", "f v", "y"),
    ]  # fmt: skip
    return model(nodes, shape, {"w": g.normal(size=(4, 3, 3, 3)), "v": g.normal(size=(4, 2))})


@pytest.mark.parametrize("shape", [(1, 3, "height", "width"), ("n", 3, None, None), (-1, 3, 6, "?")])
def test_an_example_gives_open_axes_their_sizes(shape: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "open.onnx", pooled(shape))
    fixed = saved(tmp_path / "fixed.onnx", pooled((1, 3, 6, 7)))
    network, same = rj.load(path, torch.zeros(1, 3, 6, 7)), rj.load(fixed)
    x = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert network.input_shape == (3, 6, 7)
    assert torch.equal(network(x), same(x))
    assert rj.load(path, torch.zeros(3, 6, 7)).input_shape == (3, 6, 7)  # without an axis for the batch
    # an input with a radius is an example, too
    ours, theirs = (rj.lipschitz(p, x[:1], radius=0.1, method=rj.Chords()).upper for p in (path, fixed))
    assert torch.equal(ours, theirs)


def test_an_example_must_fit_the_axes_that_are_declared(tmp_path: Path) -> None:
    path = saved(tmp_path / "open.onnx", pooled(("n", 3, 6, None)))
    for example in (torch.zeros(1, 4, 6, 7), torch.zeros(1, 3, 5, 7), torch.zeros(1, 126), torch.zeros(7)):
        refused(partial(rj.load, path, example), rj.InvalidNetwork, ["'x'", "(3, 6, ?)", str(tuple(example.shape))])
    refused(lambda: rj.load(path), rj.InvalidNetwork, ["(n, 3, 6, ?)", "--input-shape"])
    # without open axes, the example is no statement about the file, as before
    assert rj.load(saved(tmp_path / "fixed.onnx", pooled((1, 3, 6, 7))), torch.zeros(1, 126)).input_shape == (3, 6, 7)


# Inputs that are fixed


def gated(kind: int = FLOAT) -> Any:
    """tanh(x A + h B) times the number `scale`, plus 1 for every even `mode`; a state h of open size."""
    g = np.random.default_rng(1)
    nodes = [
        node("MatMul", "x a", "xa"), node("MatMul", "h b", "hb"), node("Add", "xa hb", "s"), node("Tanh", "s", "t"),
        node("Mul", "t scale", "m"), node("Mod", "mode two", "odd"), node("Equal", "odd zero", "even"),
        node("Cast", "even", "e", to=FLOAT), node("Add", "m e", "y"),
    ]  # fmt: skip
    inputs = [
        value("x", ("n", 3), kind),
        value("h", ("n", 2), kind),
        value("scale", (), kind),
        value("mode", (), INT64),
    ]
    constants = {"a": g.normal(size=(3, 4)), "b": g.normal(size=(2, 4)), "two": np.array(2), "zero": np.array(0)}
    return model(nodes, None, constants, inputs=inputs, kind=kind)


def by_hand(made: Any, x: Any, h: Any, scale: float, mode: int) -> Any:
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    whole = x.astype(np.float64) @ arrays["a"].astype(np.float64) + h @ arrays["b"].astype(np.float64)
    return np.tanh(whole) * scale + (mode % 2 == 0)


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
def test_inputs_are_fixed_at_numbers_and_arrays(kind: int, tmp_path: Path) -> None:
    made = gated(kind)
    path = saved(tmp_path / "m.onnx", made)
    g = np.random.default_rng(2)
    x, h = g.normal(size=(1, 3)), g.normal(size=(1, 2))
    for given, state in ((h, h), (torch.from_numpy(h), h), (0.25, np.full((1, 2), 0.25))):
        network = rj.load(path, fixed_inputs={"h": given, "scale": 3, "mode": 4})
        np.testing.assert_allclose(network(torch.from_numpy(x)), by_hand(made, x, state, 3, 4), atol=1e-14)
    other = rj.load(path, fixed_inputs={"x": x, "scale": -0.5, "mode": 5.0})
    assert other.input_shape == (2,)
    np.testing.assert_allclose(other(torch.from_numpy(h)), by_hand(made, x, h, -0.5, 5), atol=1e-14)
    found = rj.jacobian_bounds(other, rj.LpBall(torch.from_numpy(h), 0.1))
    truth = jacobian(other, torch.from_numpy(h))
    assert bool(((found.lower[0] <= truth) & (truth <= found.upper[0])).all())


def test_wrong_values_of_inputs_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", gated())
    rest: dict[str, Any] = {"scale": 1.0, "mode": 1}
    cases: list[tuple[Any, type[Exception], list[str]]] = [
        (None, rj.UnsupportedLayer, ["4 inputs", "--fix-inputs h=0 scale=0 mode=0", "{'h': 0.0, 'scale': 0.0"]),
        ({"h": 0.0}, rj.UnsupportedLayer, ["fix the others", "--fix-inputs scale=0 mode=0"]),
        ({"h": 0.0, "x": 0.0, **rest}, rj.UnsupportedLayer, ["every input", "leave one free"]),
        ({"g": 0.0}, rj.InvalidRequest, ["no input 'g'", "'x', 'h', 'scale', 'mode'"]),
        ({"h": np.zeros((1, 3)), **rest}, rj.InvalidRequest, ["'h'", "(?, 2)", "(1, 3)"]),
        ({"h": np.zeros(2), **rest}, rj.InvalidRequest, ["'h'", "(?, 2)", "(2,)"]),
        ({"h": float("nan"), **rest}, rj.InvalidRequest, ["'h'", "finite"]),
        ({"h": "zero", **rest}, rj.InvalidRequest, ["'h'", "number"]),
        ({"h": [[0.0], [1.0, 2.0]], **rest}, rj.InvalidRequest, ["'h'", "no array"]),
        ({"h": 0.0, "scale": 1.0, "mode": 1.5}, rj.InvalidRequest, ["'mode'", "whole numbers"]),
        ({"h": 0.0, "scale": 1.0, "mode": 1e300}, rj.InvalidRequest, ["'mode'", "whole numbers"]),
    ]
    for given, error, words in cases:
        refused(partial(rj.load, path, fixed_inputs=given), error, words)
    refused(partial(Entrance.of, None, [("h", 0.0)]), rj.InvalidRequest, ["fixed_inputs is a list", "a map"])
    weights = [(np.eye(2), None)]
    refused(lambda: rj.load(weights, fixed_inputs={"h": 0.0}), rj.InvalidRequest, ["a list", "fixed_inputs"])


def test_whole_numbers_must_fit_the_type_of_their_input(tmp_path: Path) -> None:
    nodes = [node("Cast", "k", "f", to=FLOAT), node("Mul", "x f", "y")]
    made = model(nodes, None, inputs=[value("x", ("n", 2)), value("k", (1,), onnx.TensorProto.UINT8)])
    path = saved(tmp_path / "m.onnx", made)
    network = rj.load(path, fixed_inputs={"k": 200})
    assert torch.equal(network(torch.ones(1, 2, dtype=torch.float64)), torch.full((1, 2), 200.0, dtype=torch.float64))
    for number in (256, -1):
        refused(partial(rj.load, path, fixed_inputs={"k": number}), rj.InvalidRequest, ["'k'", "UINT8"])


def test_a_state_may_have_its_batch_on_another_axis(tmp_path: Path) -> None:
    """As LSTMs have it: (layers, batch, units); axes of open size are 1 where a number is spread."""
    g = np.random.default_rng(3)
    nodes = [node("LSTM", "s w r - - h c", "o hn cn", hidden_size=3), node("Squeeze", "hn zero", "y")]
    inputs = [value("s", ("time", "n", 2)), value("h", (1, "n", 3)), value("c", (1, None, 3))]
    weights = {"w": g.normal(size=(1, 12, 2)), "r": g.normal(size=(1, 12, 3)), "zero": np.array([0])}
    path = saved(tmp_path / "m.onnx", model(nodes, None, weights, inputs=inputs))
    network = rj.load(path, torch.zeros(4, 1, 2), fixed_inputs={"h": 0.5, "c": np.zeros((1, 1, 3))})
    assert (network.input_shape, network.output_shape) == ((1, 2), (3,))


def test_what_follows_from_fixed_inputs_alone_is_read_like_the_rest(tmp_path: Path) -> None:
    """Convolutions, dense layers and activations of a fixed image scale those of the free input."""
    g = np.random.default_rng(5)
    nodes = [
        node("Conv", "h K", "c", pads=[1, 1]), node("LeakyRelu", "c", "r", alpha=0.125), node("Flatten", "r", "f"),
        node("Gemm", "f W b", "e"), node("Tanh", "e", "t"), node("MatMul", "x A", "z"), node("Mul", "z t", "p"),
        node("Tanh", "p", "q"), node("MatMul", "q V", "y"),
    ]  # fmt: skip
    shapes = {"K": (2, 1, 3), "W": (10, 3), "b": (3,), "A": (4, 3), "V": (3, 2)}
    constants = {name: g.normal(size=size) for name, size in shapes.items()}
    inputs = [value("x", ("n", 4), DOUBLE), value("h", ("n", 1, 5), DOUBLE)]
    path = saved(tmp_path / "m.onnx", model(nodes, None, constants, inputs=inputs, kind=DOUBLE))
    k, w, b, a, v = (torch.from_numpy(constants[name]) for name in shapes)
    h, x = torch.from_numpy(g.normal(size=(1, 1, 5))), torch.from_numpy(g.normal(size=(1, 4)))
    image = nn.functional.leaky_relu(nn.functional.conv1d(h, k, padding=1), 0.125).flatten(1)
    scale = torch.tanh(image @ w + b)
    network = rj.load(path, fixed_inputs={"h": h})
    torch.testing.assert_close(network(x), torch.tanh(x @ a * scale) @ v)
    slopes = torch.autograd.functional.jacobian(lambda z: torch.tanh(z @ a * scale[0]) @ v, x[0])
    methods = (rj.FastLip(), rj.Chords(), rj.Reversed(rj.RecurJac()), rj.GradientForms(), rj.ClosedForms(rj.Chords()))
    for method in methods:
        found = rj.jacobian_bounds(network, rj.LpBall(x, 0.0), method=method)
        assert found.rigorous
        assert bool(((found.lower[0] <= slopes + 1e-14) & (slopes - 1e-14 <= found.upper[0])).all())
        assert float((found.upper - found.lower).max()) < 1e-10
    refused(partial(rj.load, saved(tmp_path / "n.onnx", noisy())), rj.UnsupportedLayer, ["among the operators"])


def noisy() -> Any:
    """Numbers that neither depend on the input nor are folded."""
    nodes = [node("RandomNormal", "", "r", shape=[1, 2]), node("Add", "x r", "y")]
    return model(nodes, (1, 2))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor, h: Tensor, *, power: int = 1, scale: float = 1.0) -> Tensor:
        return torch.tanh(self.a(x) + self.b(h)) ** power * scale


def test_inputs_of_modules_are_fixed_by_the_names_of_parameters() -> None:
    module = TwoInputs().double()
    x, h = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    network = rj.load(module, x, fixed_inputs={"h": h, "power": 2})
    torch.testing.assert_close(network(x), module(x, h, power=2))
    torch.testing.assert_close(rj.load(module, h, fixed_inputs={"x": x.numpy(), "scale": 0.5})(h), 0.5 * module(x, h))
    # weights stay live, and bounds have gradients with respect to them
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.1), method=rj.FastLip())
    bounds.upper.sum().backward()
    assert module.b.weight.grad is not None
    assert bool((module.b.weight.grad != 0).any())


def test_wrong_inputs_of_modules_are_refused_in_one_sentence() -> None:
    x, h = torch.zeros(1, 3), torch.zeros(1, 2)
    cases: list[tuple[Any, type[Exception], list[str]]] = [
        (None, rj.UnsupportedLayer, ["2 inputs ('x', 'h')", "fixed_inputs={'h': 0.0}"]),
        ({"g": h}, rj.InvalidRequest, ["no input 'g'", "'x', 'h'"]),
        ({"x": x, "h": h}, rj.UnsupportedLayer, ["leave one free"]),
        ({"h": np.array([[0.1, 0.2]])}, rj.InvalidRequest, ["'h'", "torch.float32"]),
    ]
    for given, error, words in cases:
        refused(partial(rj.load, TwoInputs(), x, fixed_inputs=given), error, words)


def test_examples_and_modules_that_are_none_are_refused_in_one_sentence(tmp_path: Path) -> None:
    """What is looked at for several inputs must not hide what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3))
    ragged: Any = [[1.0, 2.0, 3.0], [1.0]]
    refused(partial(rj.load, nn.Linear(3, 2), ragged), rj.InvalidNetwork, ["the example", "not an array"])
    refused(partial(rj.load, traced, torch.zeros(1, 3)), rj.InvalidNetwork, ["torch.export"])
    refused(partial(rj.load, traced, torch.zeros(1, 3), fixed_inputs={"h": 0.0}), rj.InvalidRequest, ["no input 'h'"])
    program = torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)).module()
    refused(partial(rj.load, program, torch.zeros(1, 3)), rj.InvalidNetwork, ["eval mode", "torch.export.save"])
    path = saved(tmp_path / "open.onnx", pooled(("n", 3, None, None)))
    refused(partial(rj.load, path, ragged), rj.InvalidNetwork, ["--input-shape"])
    live = [torch.ones(3, requires_grad=True)]
    assert rj.load([(np.eye(3), None)], live).input_shape == (3,)


# Branches


def graph(name: str, nodes: Any, output: str, constants: Any = None, kind: int = FLOAT) -> Any:
    stored = [tensor(n, a, kind) for n, a in (constants or {}).items()]
    return helper.make_graph(nodes, name, [], [value(output, None, kind)], stored)


def branching() -> Any:
    """Where rate = 16: tanh(2 z); otherwise z if it has two axes, which it has; z = ReLU(x A)."""
    inner = node("If", "flat", "e", then_branch=graph("t2", [node("Identity", "z", "i")], "i"),
                 else_branch=graph("e2", [node("Squeeze", "z", "q")], "q"))  # fmt: skip
    ask = [node("Shape", "z", "sh"), node("Size", "sh", "axes"), node("Equal", "axes two", "flat"), inner]
    then = graph("then", [node("Mul", "z factor", "d"), node("Tanh", "d", "th")], "th", {"factor": np.array(2.0)})
    nodes = [
        node("MatMul", "x a", "p"), node("Relu", "p", "z"), node("Equal", "rate sixteen", "fast"),
        node("If", "fast", "y", then_branch=then, else_branch=graph("else", ask, "e")),
    ]  # fmt: skip
    constants = {"a": np.random.default_rng(4).normal(size=(3, 4)), "sixteen": np.array(16), "two": np.array(2)}
    return model(nodes, None, constants, inputs=[value("x", ("n", 3)), value("rate", (), INT64)])


@pytest.mark.parametrize("ends", [{}, {"output_name": "y"}, {"cut_at": "y"}])
def test_a_branch_with_a_known_condition_is_read(ends: dict[str, Any], tmp_path: Path) -> None:
    made = branching()
    if ends:  # another output, so that nodes are left out
        made.graph.output.append(value("p", None))
    path = saved(tmp_path / "m.onnx", made)
    a = torch.tensor(onnx.numpy_helper.to_array(made.graph.initializer[0])).double()
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = torch.relu(x @ a)
    if not ends:
        assert [s.activation.name for s in rj.load(path, fixed_inputs={"rate": 16}).stages][:2] == ["relu", "tanh"]
    for rate, truth in ((16, torch.tanh(2 * z)), (8, z)):
        network = rj.load(path, fixed_inputs={"rate": rate}, **ends)
        torch.testing.assert_close(network(x), truth)
        found = rj.jacobian_bounds(network, rj.LpBall(x, 0.05))
        for k in range(20):
            seen = x + 0.05 * (
                2 * torch.rand(1, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64) - 1
            )
            slope = jacobian(network, seen)
            assert bool(((found.lower[0] <= slope + 1e-12) & (slope - 1e-12 <= found.upper[0])).all())


def test_a_branch_that_depends_on_the_input_is_refused(tmp_path: Path) -> None:
    sides = {
        "then_branch": graph("t", [node("Neg", "x", "t")], "t"),
        "else_branch": graph("e", [node("Identity", "x", "i")], "i"),
    }
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c"), node("If", "c", "y", **sides)]
    path = saved(tmp_path / "m.onnx", model(nodes, (1, 2), {"zero": np.array(0.0)}))
    refused(lambda: rj.load(path), rj.UnsupportedLayer, ["the If node", "depends on the network's input"])


def test_broken_branches_are_refused(tmp_path: Path) -> None:
    """Nothing of a file may cause a traceback, also not inside its branches."""
    good = graph("g", [node("Neg", "x", "t")], "t")
    known = {"yes": np.array(True)}

    def of(then: Any, **more: Any) -> Any:
        return model([node("If", "yes", "y", then_branch=then, else_branch=good, **more)], (1, 2), known)

    huge = graph("g", [node("Neg", "x", "t")], "t")
    huge.initializer.append(tensor("w", np.zeros(1)))
    huge.initializer[0].dims[:] = [2**20, 2**20]
    sparse = graph("g", [node("Neg", "x", "t")], "t")
    sparse.sparse_initializer.add()
    twice = graph("g", [node("Neg", "x", "t"), node("Abs", "x", "t")], "t")
    far = graph("g", [node("Add", "x w", "t")], "t", {"w": np.zeros(1)})
    far.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    deep = good
    for _ in range(14):
        deep = graph("d", [node("If", "yes", "t", then_branch=deep, else_branch=deep)], "t")
    lonely = model([node("If", "yes", "y", else_branch=good)], (1, 2), known)
    cases = [
        (of(huge), ["'w'", "entries"]), (of(sparse), ["sparse"]), (of(twice), ["'t'", "twice"]),
        (of(far), ["'w'"]), (of(deep), ["nodes"]), (lonely, ["then_branch"]),
        (of(graph("g", [node("Neg", "q", "t")], "t")), ["'q'"]), (of(graph("g", [], "q")), ["'q'"]),
        (of(graph("g", [node("Loop", "- yes x", "t", body=good)], "t")), ["Loop", "control flow"]),
        (of(graph("g", [node("GroupNormalization", "x x x", "t", num_groups=1)], "t")), ["GroupNormalization"]),
        (of(graph("g", [node("Mul", "x x", "t", domain="a\nb")], "t")), ["a\\nb.Mul", "own domain"]),
        (of(graph("g", [node("Mul", "x x", "t", domain="a" * 9999)], "t")), ["aaa", "own domain"]),
        (of(graph("g", [node("If", "", "t", then_branch=good, else_branch=good)], "t")), ["If", "depends"]),
        # what a branch holds that is not taken must be valid, too, as the original could not be evaluated
        (model([node("If", "no", "y", then_branch=graph("g", [node("Mul", "x x", "t", domain="b")], "t"),
                     else_branch=good)], (1, 2), {"no": np.array(False)}), ["original", "'b'"]),
        (model([node("If", "no", "y", else_branch=good)], (1, 2), {"no": np.array(False)}),
         ["original", "then_branch"]),
    ]  # fmt: skip
    for k, (made, words) in enumerate(cases):
        path = saved(tmp_path / f"{k}.onnx", made)
        refused(partial(rj.load, path), rj.RecurJacError, words)


def test_an_output_may_lack_the_axis_of_the_batch(tmp_path: Path) -> None:
    """Some exporters squeeze it away, since there is one input at a time."""
    for shape, kept in (((), "one"), ((3,), "all")):
        nodes = [node("Tanh", "x", "t"), node("Squeeze", "t", "all"), node("ReduceSum", "t", "one", keepdims=0)]
        made = model(nodes, (1, 3), outputs=[value(kept, None)])
        network = rj.load(saved(tmp_path / f"{kept}.onnx", made))
        x = torch.randn(2, 3, dtype=torch.float64)
        expected = torch.tanh(x) if kept == "all" else torch.tanh(x).sum(1)
        assert network.output_shape == shape
        torch.testing.assert_close(network(x), expected)


# On the command line


def test_inputs_and_sizes_are_given_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("m.onnx"), gated())
    saved(Path("open.onnx"), pooled(("n", 3, None, None)))
    np.save("h.npy", np.array([[0.5, -1.0]]))
    np.save("x.npy", np.zeros((1, 3)))
    fixed = ["--fix-inputs", "h=h.npy", "scale=2", "mode=1"]
    ask = ["lipschitz", "m.onnx", "--input", "x.npy", "--radius", "0.1", "--method", "chords", "--json", "-", "--quiet"]
    assert main([*ask, *fixed]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    network = rj.load("m.onnx", fixed_inputs={"h": np.array([[0.5, -1.0]]), "scale": 2, "mode": 1})
    same = rj.lipschitz(network, rj.LpBall(torch.zeros(1, 3), 0.1), method=rj.Chords()).upper
    assert row["upper"] == float(same)
    assert main(["inspect", "open.onnx", "--input-shape", "3", "6", "7", "--json", "-", "--quiet"]) == 0
    assert '"input_shape": [3, 6, 7]' in " ".join(capsys.readouterr().out.split()).replace("[ 3, 6, 7 ]", "[3, 6, 7]")
    for more, words in (
        ([], ["--fix-inputs h=0 scale=0 mode=0"]),
        (["--fix-inputs", "h=0", "h=1", "scale=2", "mode=1"], ["h is fixed twice"]),
        (["--fix-inputs", "h=zero", "scale=2", "mode=1"], ["h=zero", ".npy"]),
        (["--fix-inputs", "h=none.npy", "scale=2", "mode=1"], ["none.npy"]),
        (["--fix-inputs", "h"], ["NAME=V"]),
        ([*fixed, "--certificate", "c.json"], ["leave --fix-inputs out"]),
        (["--input-shape", "3", "--certificate", "c.json"], ["leave --input-shape out"]),
    ):
        try:
            code = main([*ask, *more])
        except SystemExit as left:  # argparse's own refusal
            code = int(left.code or 0)
        assert code == 2
        err = capsys.readouterr().err
        assert all(w in err for w in words), err
