"""The tightness benchmark: its questions are what they say, and a run is read as it was written."""

from __future__ import annotations

import io
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import recurjac as rj
from benchmarks.tightness import answer, compare, main, read, show, write
from benchmarks.tightness_cases import OnImage, Question, Random, WeightList, questions
from recurjac.activations import ReLU

MADE = Random((3, 5, 2), ReLU(), 2.0, 0)
SMALL = Question("small", "random", 0.1, MADE, asked=(5.0, 4.0), opponent=9.0, by="nobody", quick=True)


def test_a_question_is_answered_soundly() -> None:
    found = answer(SMALL, 0.5)
    network, x = MADE()
    largest = int(network(x.unsqueeze(0)).argmax())
    true = rj.lipschitz(network.output(largest), rj.LpBall(x, 0.1), method=rj.Branched(limit=rj.Limit(tolerance=1e-6)))
    assert found.lower <= float(true.upper)
    assert float(true.lower) <= found.upper
    assert (found.asked, found.opponent, found.limit) == (None, 9.0, 0.5)
    assert 1 <= found.ratio < inf
    assert found.steps.startswith("product of norms")


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = answer(SMALL, 10.0)
    assert found.asked == 5.0
    write(tmp_path / "a" / "run.json", [found, replace(found, limit=120.0)], [10.0, 120.0])
    assert read(tmp_path / "a" / "run.json") == [found, replace(found, limit=120.0)]
    console = Console(file=io.StringIO(), width=200)
    show(console, [found])
    compare(console, [found, replace(found, radius=7.0)], [replace(found, upper=2 * found.upper)])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "9 nobody" in printed
    assert "Geometric mean, new / old: 0.500 over 1 questions." in printed
    assert "1 of 2 questions are not in the old run." in printed


def test_networks_come_from_files(tmp_path: Path) -> None:
    arrays = {"W0": np.ones((4, 3)), "W1": np.ones((2, 4)), "activation": "relu"}
    np.savez(tmp_path / "a.npz", **arrays, x=np.arange(3.0))  # type: ignore[arg-type]
    np.savez(tmp_path / "b.npz", **arrays)  # type: ignore[arg-type]
    np.savez(tmp_path / "images.npz", x_test=np.full((2, 3, 1), 51, np.uint8))
    assert WeightList(tmp_path / "a.npz")()[1].tolist() == [0, 1, 2]
    assert not WeightList(tmp_path / "b.npz")()[1].any()
    assert torch.allclose(OnImage(tmp_path / "a.npz", tmp_path / "images.npz", 1)()[1], torch.tensor(0.2).double())


def test_without_files_there_are_random_networks(tmp_path: Path) -> None:
    found = list(questions(tmp_path))
    assert {q.table for q in found} == {"fresh seeds"}
    assert sum(q.quick for q in found) >= 3
    assert len({(q.network, q.radius) for q in found}) == len(found)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    words = ["--quick", "--only", "arctan", "--seconds", "0.3", "--shared", str(tmp_path)]
    main([*words, "--json", str(file)])
    main([*words, "--compare", str(file)])
    assert "arctan 20-2×30-10, seed 1" in capsys.readouterr().out
    assert len(read(file)) == 1
    with pytest.raises(SystemExit):
        main([*words, "--compare", str(tmp_path / "nothing.json")])
