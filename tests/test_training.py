"""Training: a file is what its record says, however often training was interrupted; nothing is taken for another."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.activations.two_piece import LeakyReLU
from recurjac.cli import main
from recurjac.errors import InvalidRequest, TrainingFailed, UnreadableFile
from recurjac.experiments.adversary import adversarial
from recurjac.experiments.data import Images, read_images
from recurjac.experiments.perceptron import initial
from recurjac.experiments.recipes import EXPERIMENTS, RECIPES, recipes
from recurjac.experiments.training import Recipe, trained
from tests.helpers import refused

TINY = Recipe("tiny", (12, 12), "leaky_relu", slope=0.3, epochs=4, steps=40, batch=50, learning_rate=1e-2)
ATTACKED = replace(TINY, name="attacked", activation="tanh", slope=0.0, adversarial=0.1, epochs=6, attack_steps=3)


@pytest.fixture(scope="module")
def digits() -> Images:
    return read_images("digits")


@pytest.fixture(scope="module")
def whole(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of `ATTACKED` trained without interruption."""
    return trained(ATTACKED, digits, tmp_path_factory.mktemp("whole")).sha256


def stop(after: int) -> Callable[[], None]:
    """A tick that interrupts the training after so many epochs."""
    left = [after]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return tick


def test_the_file_is_the_network_of_the_recipe(digits: Images, tmp_path: Path) -> None:
    ticks: list[None] = []
    found = trained(TINY, digits, tmp_path / "a" / "b", lambda: ticks.append(None))
    assert found.path == tmp_path / "a" / "b" / "tiny.npz"
    assert sorted(os.listdir(found.path.parent)) == ["tiny.json", "tiny.npz"]
    assert len(ticks) == 4
    network = rj.load(found.path)
    assert [stage.shape for stage in network.stages] == [(12,), (12,), (10,)]
    assert [stage.activation for stage in network.stages[:-1]] == [LeakyReLU(0.3)] * 2
    right = (network(digits.x_test.double()).argmax(dim=1) == digits.y_test).double().mean()
    assert found.accuracy == pytest.approx(float(right), abs=1 / 450 + 1e-12)  # (the training computes in float32)
    assert found.accuracy > 0.9
    assert found.robust is None
    with np.load(found.path) as arrays:
        assert {arrays[f"W{i}"].dtype for i in range(3)} == {np.dtype("float32")}
        assert (str(arrays["activation"]), float(arrays["slope"])) == ("leaky_relu", 0.3)
    record = json.loads(found.path.with_suffix(".json").read_text())
    assert record["recipe"]["hidden"] == [12, 12]
    assert record["data"] == {"name": "digits", "sha256": digits.sha256}
    assert record["sha256"] == found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
    assert record["accuracy"] == found.accuracy
    assert record["versions"]["torch"] == torch.__version__


def test_what_is_there_is_not_trained_again(digits: Images, tmp_path: Path) -> None:
    first = trained(TINY, digits, tmp_path)
    changed = first.path.stat().st_mtime_ns
    ticks: list[None] = []
    assert trained(TINY, digits, tmp_path, lambda: ticks.append(None)) == first
    assert first.path.stat().st_mtime_ns == changed
    assert len(ticks) == 4


def test_the_seed_decides_and_the_number_of_threads_does_not(digits: Images, tmp_path: Path) -> None:
    short = replace(TINY, epochs=1)
    found = [trained(replace(short, seed=seed), digits, tmp_path / str(seed)).sha256 for seed in (0, 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = trained(short, digits, tmp_path / "again").sha256
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert found[0] == again != found[1]


@pytest.mark.parametrize("after", [1, 3, 6])
def test_interrupted_training_goes_on_to_the_same_bits(digits: Images, whole: str, tmp_path: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(ATTACKED, digits, tmp_path, stop(after))
    assert os.listdir(tmp_path) == ["attacked.checkpoint"]
    ticks: list[None] = []
    assert trained(ATTACKED, digits, tmp_path, lambda: ticks.append(None)).sha256 == whole
    assert len(ticks) == 6
    assert sorted(os.listdir(tmp_path)) == ["attacked.json", "attacked.npz"]


CHILD = """
import os, signal, sys, threading
from pathlib import Path
from recurjac.experiments import records, training
from recurjac.experiments.data import read_images
from recurjac.experiments.training import Recipe

def die(): os.kill(os.getpid(), signal.SIGKILL)

when, write, epochs = sys.argv[2], records._write, []
def watched(path, content):
    write(path, content)
    if when == "between" and path.suffix == ".npz":
        die()
records._write = watched

def tick():
    epochs.append(None)
    print(len(epochs), flush=True)
    if when == "within" and len(epochs) == 3:
        step = training._Course._step
        left = [17]
        def dying(self, *args):
            step(self, *args)
            left[0] -= 1
            if not left[0]: die()
        training._Course._step = dying

training.trained(eval(sys.argv[3]), read_images("digits"), Path(sys.argv[1]), tick)
"""


@pytest.mark.parametrize(("when", "epochs"), [("within", 3), pytest.param("between", 6, marks=pytest.mark.slow)])
def test_a_killed_process_loses_an_epoch_at_most(
    digits: Images, whole: str, tmp_path: Path, when: str, epochs: int
) -> None:
    """SIGKILL in the middle of an epoch, and between the writing of the network and of its record."""
    here = {**os.environ, "PYTHONPATH": str(Path(rj.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path), when, repr(ATTACKED)]
    done = subprocess.run(command, capture_output=True, env=here, check=False, text=True)  # noqa: S603
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert done.stdout.split() == [str(i) for i in range(1, epochs + 1)]
    assert not (tmp_path / "attacked.json").exists()
    assert trained(ATTACKED, digits, tmp_path).sha256 == whole
    assert sorted(os.listdir(tmp_path)) == ["attacked.json", "attacked.npz"]


def test_networks_of_other_recipes_or_data_are_kept(digits: Images, tmp_path: Path) -> None:
    found = trained(TINY, digits, tmp_path)
    content = found.path.read_bytes()
    other = replace(digits, x_test=digits.x_test.flip(0))
    refused(lambda: trained(replace(TINY, seed=1), digits, tmp_path), InvalidRequest, ["seed 0, not 1", "folder"])
    refused(lambda: trained(replace(TINY, hidden=(9,)), digits, tmp_path), InvalidRequest, ["[12, 12], not [9]"])
    refused(lambda: trained(TINY, other, tmp_path), InvalidRequest, ["other data", "tiny.npz"])
    assert found.path.read_bytes() == content
    found.path.with_suffix(".json").unlink()
    refused(lambda: trained(TINY, digits, tmp_path), InvalidRequest, ["overwritten", "tiny.json"])
    assert found.path.read_bytes() == content


def test_checkpoints_of_other_recipes_or_data_are_kept(digits: Images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(TINY, digits, tmp_path, stop(1))
    content = (tmp_path / "tiny.checkpoint").read_bytes()
    refused(lambda: trained(replace(TINY, epochs=9), digits, tmp_path), InvalidRequest, ["epochs 4, not 9"])
    other = replace(digits, x_train=digits.x_train.flip(0))
    refused(lambda: trained(TINY, other, tmp_path), InvalidRequest, ["other data", "checkpoint"])
    assert (tmp_path / "tiny.checkpoint").read_bytes() == content
    (tmp_path / "tiny.checkpoint").write_bytes(content[:-100])
    refused(lambda: trained(TINY, digits, tmp_path), UnreadableFile, ["tiny.checkpoint", "remove it"])


def test_damaged_files_are_refused(digits: Images, tmp_path: Path) -> None:
    found = trained(replace(TINY, epochs=1), digits, tmp_path)
    record = found.path.with_suffix(".json")
    text = record.read_text()
    for damaged in ("", "[]", "{}", text[:-9], text.replace('"accuracy"', '"other"')):
        record.write_text(damaged)
        refused(lambda: trained(replace(TINY, epochs=1), digits, tmp_path), UnreadableFile, ["tiny.json", "remove"])
    record.write_text(text)
    found.path.write_bytes(found.path.read_bytes() + b"\0")
    refused(lambda: trained(replace(TINY, epochs=1), digits, tmp_path), UnreadableFile, ["tiny.npz", "remove both"])
    (tmp_path / "file").touch()
    refused(lambda: trained(TINY, digits, tmp_path / "file"), InvalidRequest, ["cannot be kept in"])


def test_training_that_diverges_leaves_nothing(digits: Images, tmp_path: Path) -> None:
    wild = replace(TINY, learning_rate=1e38, batch=10)
    refused(lambda: trained(wild, digits, tmp_path), TrainingFailed, ["tiny", "epoch 1", "learning rate"])
    assert os.listdir(tmp_path) == []


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": "a/b"}, ["'a/b'"]), ({"name": ""}, ["''"]), ({"name": "..x"}, ["'..x'"]),
    ({"hidden": (3, 0)}, ["(3, 0)"]), ({"epochs": 0}, ["epochs = 0"]), ({"batch": 0}, ["batch = 0"]),
    ({"seed": -1}, ["seed -1"]), ({"adversarial": -0.1}, ["adversarial = -0.1"]),
    ({"adversarial": float("nan")}, ["adversarial = nan"]), ({"learning_rate": float("inf")}, ["inf"]),
    ({"activation": "rleu"}, ["'rleu'", "relu"]), ({"slope": float("nan")}, ["slope nan"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BAD)
def test_what_is_no_recipe_is_refused(change: dict[str, Any], words: list[str]) -> None:
    refused(lambda: replace(TINY, **change), InvalidRequest, words)


# The adversary


def test_the_adversary_stays_in_its_ball_and_raises_the_loss(digits: Images) -> None:
    g = torch.Generator().manual_seed(0)
    network = initial((64, 30, 10), TINY.made_activation(), g)
    x, y = digits.x_test, digits.y_test
    found = adversarial(network, x, y, 0.2, 5, g)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float((found.double() - x.double()).abs().max()) <= 0.2 + 2**-24
    losses = [torch.nn.functional.cross_entropy(network.logits(a), y, reduction="none") for a in (x, found)]
    assert bool((losses[1] > losses[0]).all())
    assert all(p.grad is None for p in network.parameters())
    at_once = adversarial(network, x, y, 1.0, 1, g)  # one step of 2.5 radii: all pixels at an end of [0, 1]
    assert bool(((at_once == 0) | (at_once == 1)).double().mean() > 0.99)


def test_a_linear_network_falls_to_the_exact_adversary(digits: Images) -> None:
    """Of two classes and no hidden layer the worst image is x ± radius by the signs of the weights."""
    g = torch.Generator().manual_seed(1)
    network = initial((64, 2), TINY.made_activation(), g)
    x, y = digits.x_test[:50], digits.y_test[:50] % 2
    found = adversarial(network, x, y, 0.1, 4, g)
    towards = (network.weights[0][1] - network.weights[0][0]).sign() * (1 - 2 * y.unsqueeze(1))
    worst = torch.where(towards > 0, (x + 0.1).clamp(max=1), (x - 0.1).clamp(min=0))
    torch.testing.assert_close(found, worst.detach(), rtol=0, atol=0)


def test_adversarial_training_defends(digits: Images, tmp_path: Path) -> None:
    """Against the same adversary, both measured by `trained` itself and here."""
    recipe = replace(TINY, hidden=(40,), activation="relu", slope=0.0, epochs=8)
    defended = trained(replace(recipe, name="defended", adversarial=0.15), digits, tmp_path)
    plain = trained(recipe, digits, tmp_path)
    assert defended.robust is not None
    assert plain.robust is None
    assert defended.robust < defended.accuracy
    reached = [survivors(found.path, digits, 0.15) for found in (plain, defended)]
    assert reached[1] == pytest.approx(defended.robust, abs=0.05)
    assert reached[1] > reached[0] + 0.1


def survivors(path: Path, images: Images, radius: float) -> float:
    """The part of the test images that the network in `path` classifies after 40 steps of another seed."""
    with np.load(path) as arrays:
        weights = [torch.from_numpy(arrays[key]) for key in ("W0", "b0", "W1", "b1")]
    g = torch.Generator().manual_seed(5)
    made = initial((64, 40, 10), replace(TINY, activation="relu").made_activation(), g)
    network = replace(made, weights=(weights[0], weights[2]), biases=(weights[1], weights[3]))
    moved = adversarial(network, images.x_test, images.y_test, radius, 40, g)
    return float((network.logits(moved).argmax(dim=1) == images.y_test).double().mean())


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "softplus"])
def test_random_networks_keep_the_size_of_what_they_are_given(activation: str) -> None:
    g = torch.Generator().manual_seed(0)
    network = initial((300,) * 12, replace(TINY, activation=activation).made_activation(), g)
    out = network.detached().logits(torch.randn(50, 300, generator=g))
    assert 0.4 < float(out.square().mean().sqrt()) < 2.5


# The recipes and the command


def test_the_recipes_are_those_of_the_paper() -> None:
    assert {name: [r.layers for r in of] for name, of in EXPERIMENTS.items()} == {
        "figure1": [10, 5, 7], "figure1-cifar": [10], "figure2": list(range(2, 11)), "figure3": [10, 5, 7],
        "table1": [4, 4, 3, 3],
    }  # fmt: skip
    assert all(RECIPES[r.name] == r for of in EXPERIMENTS.values() for r in of)
    assert {(r.activation, r.slope, set(r.hidden) == {20}) for r in EXPERIMENTS["figure2"]} == {
        ("leaky_relu", 0.3, True)
    }
    assert [r.adversarial for r in EXPERIMENTS["table1"]] == [0, 0.3, 0, 0.3]
    assert [r.name for r in recipes(["5layer_relu_50", "figure1", "figure2"])][:3] == [
        "5layer_relu_50", "10layer_leaky0.3_20", "7layer_relu_1024-32",
    ]  # fmt: skip
    assert len(recipes(["figure1", "figure2"])) == 11
    refused(lambda: recipes(["figure4"]), InvalidRequest, ["'figure4'", "table1", "3layer_relu_1024_adv0.3"])


def test_the_command_trains_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["2layer_leaky0.3_20", "3layer_leaky0.3_20"]
    common = ["train", *names, "--data", "digits", "--out", str(tmp_path / "nets"), "--epochs", "2", "--seed", "3"]

    def interrupted(recipe: Recipe, images: Images, folder: Path, tick: Callable[[], None]) -> Any:
        return trained(recipe, images, folder, tick if recipe.name == names[0] else stop(1))

    with monkeypatch.context() as patch:
        patch.setattr("recurjac.cli.train.trained", interrupted)
        assert main([*common, "--json", str(tmp_path / "r.json")]) == 1
    out, err = capsys.readouterr()
    assert "interrupted; 1 of 2 networks are finished" in err
    assert names[0] in out
    assert names[1] not in out
    first = json.loads((tmp_path / "r.json").read_text())["results"]
    assert main([*common, "--json", "-", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    results = json.loads(out)["results"]
    assert results[0] == first[0]
    assert [(r["name"], r["layers"], r["adversarial_accuracy"]) for r in results] == [
        (names[0], 2, None),
        (names[1], 3, None),
    ]
    for result in results:
        assert hashlib.sha256(Path(result["file"]).read_bytes()).hexdigest() == result["sha256"]
        assert result["accuracy"] > 0.9
        record = json.loads(Path(result["file"]).with_suffix(".json").read_text())
        assert (record["recipe"]["epochs"], record["recipe"]["seed"]) == (2, 3)


def test_the_command_refuses_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "nets")]
    for args, words in [
        ([], "no network is named"),
        (["figure2", *out], "--data is missing"),
        (["figure2", "--data", "digits"], "--out is missing"),
        (["figure9", "--data", "digits", *out], "'figure9'"),
        (["figure2", "--data", "nowhere.npz", *out], "there is no file nowhere.npz"),
        (["figure2", "--data", "digits", *out, "--epochs", "0"], "epochs = 0"),
    ]:
        assert main(["train", *args]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "10layer_leaky0.3_20.npz").touch()
    assert main(["train", "figure2", "--data", "digits", *out]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert os.listdir(tmp_path / "nets") == ["10layer_leaky0.3_20.npz"]


def test_the_list_names_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*RECIPES, *EXPERIMENTS])
    assert main(["train", "table1", "--list", "--json", "-", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert [r["name"] for r in found] == [r.name for r in EXPERIMENTS["table1"]]
