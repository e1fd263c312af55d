""".pt2 files: read for one input and checked; what is damaged, of another kind or could run code is refused."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import recurjac as rj
from recurjac.cli.main import main
from tests.test_torch_readers import build, points, wide
from tests.torch_cases import EVERY, IMAGE, ROW, Fn

READ = (
    "conv2d-same", "norm2d", "most2d-all", "adaptive2d", "view-as", "cat", "added-in-place", "group-sort", "residual",
    "dense-blocks", "classifier", "tokens", "hard-tanh", "detached", "contiguous", "indexed", "filled", "linear-deep",
)  # fmt: skip
ONE_ONLY = ("reduced", "unbatched-conv", "dot")


def save(path: Path, module: nn.Module, example: Tensor, **settings: Any) -> Path:
    """The module in eval mode as a .pt2 file; decomposed: in core operations."""
    decomposed = settings.pop("decomposed", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), (example,), **settings)
        torch.export.save(program.run_decompositions() if decomposed else program, path)
    return path


def check(path: Path, name: str, dtype: torch.dtype = torch.float64) -> None:
    x = points(name, 4 if name not in ONE_ONLY else 1)
    network = rj.load(path, dtype=dtype)
    close = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(network(x.to(dtype)).double(), wide(name)(x), rtol=close, atol=close)


@pytest.mark.parametrize("name", READ + ONE_ONLY)
def test_a_program_of_one_input_is_read(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "model.pt2", build(name), torch.zeros(1, *EVERY[name][1]))
    capfd.readouterr()
    check(path, name)
    check(path, name, torch.float32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", READ)
def test_a_program_of_any_number_of_inputs_is_read(name: str, tmp_path: Path) -> None:
    example, batch = torch.zeros(3, *EVERY[name][1]), ({0: Dim("batch")},)
    check(save(tmp_path / "model.pt2", build(name), example, dynamic_shapes=batch), name)


@pytest.mark.parametrize("name", ["classifier", "residual", "linear-deep", "adaptive2d", "norm2d"])
def test_core_operations_are_read(name: str, tmp_path: Path) -> None:
    shape, batch = EVERY[name][1], {0: Dim("batch", max=1000)}
    one, many = torch.zeros(1, *shape), torch.zeros(3, *shape)
    check(save(tmp_path / "one.pt2", build(name), one, decomposed=True), name)
    check(save(tmp_path / "many.pt2", build(name), many, dynamic_shapes=(batch,), decomposed=True), name)


def test_sizes_are_computed_from_the_batch(tmp_path: Path) -> None:
    def f(_: Any, x: Tensor) -> Tensor:
        torch._check(x.shape[0] * 2 < 10**6)
        y = x.reshape(x.shape[0] * 2, 3) + torch.zeros(2 * x.shape[0], 3)
        return y.view(-1, 2, 3).sum(1) + torch.ones(x.shape[0], 1) + ROW[:3].expand(x.size(0), 3)

    module = Fn(f)
    network = rj.load(save(tmp_path / "m.pt2", module, torch.zeros(4, 6), dynamic_shapes=({0: Dim.DYNAMIC},)))
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(network(x), module(x))


def test_constants_of_any_kind_are_kept(tmp_path: Path) -> None:
    class Kept(nn.Module):
        hidden: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.plain = nn.Linear(6, 3), torch.tensor([0.1, 0.2, 0.3])
            self.register_buffer("hidden", torch.tensor([[2.0]]), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x * self.hidden) + self.plain + torch.tensor([1.0, 2.0, 3.0])
            return out.to(torch.float32)

    module, x = Kept(), torch.randn(5, 6)
    network = rj.load(save(tmp_path / "m.pt2", module, x[:1]), dtype=torch.float32)
    assert network.unproved_rounding() == []
    torch.testing.assert_close(network(x), module(x))


def test_the_command_line_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "model.pt2", nn.Sequential(nn.Linear(6, 3), nn.ReLU()), torch.zeros(1, 6))
    assert main(["inspect", str(path)]) == 0
    assert "relu" in capsys.readouterr().out


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any], type[Exception], str]] = {
    "fixed batch": (lambda: nn.Linear(6, 3), (4, 6), {}, rj.InvalidNetwork, r"\(4, 6\).*dynamic_shapes"),
    "no batch": (lambda: nn.Linear(6, 3), (6,), {}, rj.InvalidNetwork, r"\(6\).*\(1, …\)"),
    "open": (lambda: nn.ReLU(), (3, 6), {"dynamic_shapes": ({1: Dim("n")},)}, rj.InvalidNetwork, "only the first axis"),
    "layer": (lambda: nn.Softplus(threshold=1), (1, 6), {}, rj.UnsupportedLayer, r"aten\.softplus"),
    "mixing": (lambda: Fn(lambda _, x: x - x.mean(0)), (3, 6), {"dynamic_shapes": ({0: Dim("n")},)},
               rj.ConversionError, "differ by"),
    "two": (lambda: Fn(lambda _, x: (x, x + 1)), (1, 6), {}, rj.UnsupportedLayer, "2 outputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_of_one_input_is_refused(name: str, tmp_path: Path) -> None:
    make, shape, settings, error, words = REFUSED[name]
    path = save(tmp_path / "model.pt2", make(), torch.zeros(shape), **settings)
    with pytest.raises(error, match=words) as caught:
        rj.load(path)
    assert "\n" not in str(caught.value)


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2.0

    for name, module, given, words in (
        ("two", Two(), (torch.ones(1, 2), torch.ones(1, 2)), "has 2 inputs"),
        ("whole", Whole(), (torch.ones(1, 2, dtype=torch.int64),), "type torch.int64"),
    ):
        torch.export.save(torch.export.export(module, given), tmp_path / f"{name}.pt2")
        with pytest.raises(rj.UnsupportedLayer, match=words):
            rj.load(tmp_path / f"{name}.pt2")


# Damaged and hostile files

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    module = nn.Sequential(nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten())
    batch = ({0: Dim("batch")},)
    path = save(tmp_path_factory.mktemp("pt2") / "m.pt2", module, torch.zeros(2, *IMAGE), dynamic_shapes=batch)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"m/{name}", content)
    return path


def graph(members: Members, old: str, new: str) -> Members:
    """With a text of the graph replaced."""
    text = members["models/model.json"].decode()
    assert old in text
    return {**members, "models/model.json": text.replace(old, new).encode()}


def payload(members: Members, kind: str, **changed: Any) -> Members:
    """With one tensor described otherwise, among weights or constants."""
    weights = json.loads(members["data/weights/model_weights_config.json"])["config"]
    config = {"config": {"0.weight": {**weights["0.weight"], **changed}}}
    return {**members, f"data/{kind}/model_{kind}_config.json": json.dumps(config).encode()}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(((Bomb(),), {}), buffer)
    return buffer.getvalue()


HOSTILE: dict[str, tuple[Callable[[Members], Members], type[Exception], str]] = {
    "pickled-weight": (lambda m: payload(m, "weights", use_pickle=True), rj.InvalidNetwork, "as a Python object"),
    "object": (lambda m: payload(m, "constants", path_name="custom_obj_0"), rj.InvalidNetwork, "as a Python object"),
    "opaque": (lambda m: payload(m, "constants", path_name="opaque_obj_0"), rj.InvalidNetwork, "as a Python object"),
    "samples": (lambda m: {**m, "data/sample_inputs/model.pt": pickled()}, rj.InvalidNetwork, "keeps Python objects"),
    "function": (lambda m: graph(m, "torch.ops.aten.relu.default", "torch.hub.load"), rj.UnsupportedLayer, "hub.load"),
    "library": (lambda m: graph(m, "torch.ops.aten.relu.default", "torch.ops.load_library"), rj.UnsupportedLayer,
                "load_library"),
    "extension": (lambda m: graph(m, "torch.ops.aten.relu.default", "#f:math.sin"), rj.UnsupportedLayer, "math.sin"),
    "size": (lambda m: graph(m, "Symbol(", "exec("), rj.InvalidNetwork, "a size with exec"),
    "graphs": (lambda m: {**m, "models/extra.json": m["models/model.json"]}, rj.UnreadableFile, "2 exported programs"),
    "compiled": (lambda m: {**m, "data/aotinductor/model/a.so": b"x"}, rj.InvalidNetwork, "compiled code"),
}  # fmt: skip
DAMAGED: dict[str, Callable[[Members], Members]] = {
    "no graph": lambda m: {k: v for k, v in m.items() if not k.startswith("models/")},
    "no weights": lambda m: {k: v for k, v in m.items() if "weight_" not in k},
    "short weights": lambda m: {k: v[:1] if "weight_" in k else v for k, v in m.items()},
    "no version": lambda m: {k: v for k, v in m.items() if k != "archive_version"},
    "archive version": lambda m: {**m, "archive_version": b"99"},
    "schema": lambda m: {**m, "models/model.json": m["models/model.json"].replace(b'"major": ', b'"major": 9')},
    "no json": lambda m: {**m, "models/model.json": m["models/model.json"][:-9]},
    "empty json": lambda m: {**m, "models/model.json": b"{}"},
    "missing operation": lambda m: graph(m, "torch.ops.aten.relu.default", "torch.ops.aten.there_is_none.default"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_could_run_code_is_refused(
    name: str, members: Members, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, error, words = HOSTILE[name]
    with pytest.raises(error, match=words) as caught:
        rj.load(packed(tmp_path / "m.pt2", change(members)))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(
    name: str, members: Members, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((rj.UnreadableFile, rj.UnsupportedLayer)) as caught:
        rj.load(packed(tmp_path / "m.pt2", DAMAGED[name](members)))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "m.pt2") in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_undamaged_copy_is_read(members: Members, tmp_path: Path) -> None:
    assert rj.load(packed(tmp_path / "m.pt2", members)).input_shape == IMAGE


@pytest.mark.parametrize("content", ["text", "cut", "state", "empty"])
def test_a_file_of_another_kind_is_refused(
    content: str, members: Members, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = packed(tmp_path / "m.pt2", members)
    if content == "state":
        torch.save({"weight": torch.ones(2)}, path)
    else:
        path.write_bytes({"text": b"hello", "cut": path.read_bytes()[:500], "empty": b""}[content])
    with pytest.raises(rj.UnreadableFile) as caught:
        rj.load(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
