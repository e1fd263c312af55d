"""The paper's experiments on digits with tiny networks: they report what the library says, and all of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from math import inf, isnan
from pathlib import Path

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.cli import main
from recurjac.experiments.curves import ATTAINED, METHODS, PRODUCT, cost, means
from recurjac.experiments.data import Images, read_images
from recurjac.experiments.recipes import EXPERIMENTS
from recurjac.experiments.study import Row
from recurjac.experiments.training import Recipe, trained

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def images() -> Images:
    return read_images("digits")


@pytest.fixture(scope="module")
def files(images: Images, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Networks of two, three and four layers."""
    folder = tmp_path_factory.mktemp("networks")
    recipes = [
        Recipe(f"tiny{k}", (8,) * k, "leaky_relu", slope=0.3, epochs=2, steps=120, batch=50, learning_rate=0.01)
        for k in (1, 2, 3)
    ]
    return [trained(recipe, images, folder).path for recipe in recipes]


def command(name: str, files: Sequence[Path], out: Path, *more: str) -> list[str]:
    """An experiment with these files for its networks, in turn."""
    names = [r.name for r in (EXPERIMENTS[name][:1] if name == "figure1" else EXPERIMENTS[name])]
    given = [f"{n}={files[i % len(files)]}" for i, n in enumerate(names)]
    return ["experiments", name, *(w for g in given for w in ("--network", g)), "--out", str(out), "--quiet", *more]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_files(folder: Path, name: str, panels: bool) -> None:
    """Everything that an experiment leaves is there, and none of it is empty."""
    from matplotlib import image

    pixels = image.imread(str(folder / f"{name}.png"))
    assert pixels.shape[0] > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
    assert "</svg>" in (folder / f"{name}.svg").read_text(encoding="utf-8")
    assert "Zhang" in (folder / f"{name}.md").read_text(encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert all(len(n["sha256"]) == 64 and n["accuracy"] > 0.5 for n in manifest["networks"].values())
    assert (folder / "panels.npz").exists() == panels


def check_panels(folder: Path, files: Sequence[Path], output: int | None) -> None:
    """Every gradient at the image itself lies within its bounds."""
    with np.load(folder / "panels.npz") as found:
        image, lower, upper, title = (found[key] for key in ("image", "lower", "upper", "title"))
    assert image.shape == lower.shape == upper.shape == (len(title), 8, 8)
    assert len(set(title)) == len(title) > 1
    assert (upper > lower).any()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for x, low, high, words in zip(image, lower, upper, title, strict=True):
        given = manifest["networks"][str(words).split(":")[0]]["file"]
        network = rj.load(next(f for f in files if f.name == given))
        centre = torch.from_numpy(x).reshape(64)
        k = int(network(centre.unsqueeze(0)).argmax()) if output is None else output
        gradient = rj.jacobian_bounds(network.output(k), rj.LpBall(centre, 0.0))
        assert bool((torch.from_numpy(low).flatten() <= gradient.upper.flatten()).all())
        assert bool((gradient.lower.flatten() <= torch.from_numpy(high).flatten()).all())


def test_figure_1(tmp_path: Path, files: list[Path], images: Images) -> None:
    assert main(command("figure1", files[2:], tmp_path, "--radius", "0.01", "0.1")) == 0
    check_files(tmp_path, "figure1", panels=True)
    check_panels(tmp_path, files, None)
    rows = table(tmp_path / "figure1.csv")
    assert [r["method"] for r in rows] == [*METHODS, ATTAINED] * 2
    network = rj.load(files[2])
    for row in rows:
        x = images.x_test[int(row["image"])].double()
        assert int(network(x.unsqueeze(0)).argmax()) == int(images.y_test[int(row["image"])]) == int(row["label"])
        attained = float(next(r["value"] for r in rows if r["method"] == ATTAINED and r["radius"] == row["radius"]))
        if row["method"] == ATTAINED:
            continue
        assert float(row["value"]) >= attained
        if row["method"] not in ("Fast-Lip", "RecurJac-B", "our default"):
            continue
        found = rj.lipschitz(
            network, rj.LpBall(x, float(row["radius"])), method=METHODS[row["method"]], search=rj.Search(work=0)
        )
        assert float(row["value"]) == float(found.upper[0])
    product, best = ([float(r["value"]) for r in rows if r["method"] == m] for m in (PRODUCT, "our default"))
    assert all(b < p for b, p in zip(best, product, strict=True))


def test_what_is_attained_in_a_ball_is_attained_in_every_larger_one() -> None:
    """A search may find less in the larger ball; a bound is as the method gives it."""
    rows: list[Row] = [
        {"network": "n", "method": m, "image": image, "radius": radius, "value": value}
        for m in (ATTAINED, PRODUCT)
        for image, radius, value in ((0, 0.1, 2.0), (0, 0.2, 1.0), (1, 0.1, None), (1, 0.2, 4.0))
    ]
    attained, product, nothing = (means(rows, (0.05, 0.1, 0.2), "n", m) for m in (ATTAINED, PRODUCT, "another"))
    assert (attained[1:], product[1:]) == ([2.0, 3.0], [2.0, 2.5])
    assert all(map(isnan, (attained[0], product[0], *nothing)))


@pytest.mark.slow
def test_figure_3_has_all_networks_and_says_why_a_cell_is_empty(tmp_path: Path, files: list[Path]) -> None:
    budget = cost(rj.load(files[2]), "RecurJac-F0") - 1
    assert budget > cost(rj.load(files[1]), "RecurJac-F0")
    more = ("--radius", "0.1", "--images", "2", "--budget", str(budget))
    assert main(command("figure3", files, tmp_path, *more)) == 0
    check_files(tmp_path, "figure3", panels=True)
    rows = table(tmp_path / "figure3.csv")
    assert len({(r["network"], r["image"], r["radius"], r["method"]) for r in rows}) == len(rows) == 3 * 2 * 7
    last = EXPERIMENTS["figure3"][2].name
    empty = [r for r in rows if not r["value"]]
    assert {(r["network"], r["method"]) for r in empty} == {(last, "RecurJac-F0")}
    assert all("over the budget" in r["remark"] for r in empty)
    assert "RecurJac-F0: not computed" in (tmp_path / "figure3.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_figure_2(tmp_path: Path, files: list[Path], images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "figure2", EXPERIMENTS["figure2"][:2])
    assert main(command("figure2", files, tmp_path, "--images", "2")) == 0
    check_files(tmp_path, "figure2", panels=True)
    check_panels(tmp_path, files, 1)
    rows = table(tmp_path / "figure2.csv")
    assert len({(r["network"], r["image"], r["norm"], r["method"]) for r in rows}) == len(rows) == 2 * 2 * 2 * 2
    for row in rows:
        assert int(images.y_test[int(row["image"])]) == 1
        if row["depth"] == "2":
            assert float(row["radius"]) == inf
        else:
            assert float(row["radius"]) > 0
    one = next(r for r in rows if r["depth"] == "3" and r["norm"] == "l2" and r["method"] == "RecurJac-B")
    x = images.x_test[int(one["image"])].double()
    radius = float(one["radius"])
    assert radius < inf
    bounds = rj.jacobian_bounds(rj.load(files[1]).output(1), rj.LpBall(x, radius, p=2), method=rj.RecurJac())
    k = int(one["witness"])
    assert float(bounds.lower.flatten()[k]) > 0 or float(bounds.upper.flatten()[k]) < 0
    text = (tmp_path / "figure2.md").read_text(encoding="utf-8")
    assert "| 2 | – | 100 % | – | 100 % | – | 100 % | – | 100 % |" in text


@pytest.mark.slow
def test_table_1(tmp_path: Path, files: list[Path], images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "table1", EXPERIMENTS["table1"][2:])
    assert main(command("table1", files[1:], tmp_path, "--images", "2", "--intervals", "8")) == 0
    check_files(tmp_path, "table1", panels=False)
    rows = table(tmp_path / "table1.csv")
    assert len({(r["network"], r["image"], r["target_kind"], r["method"]) for r in rows}) == len(rows) == 2 * 2 * 3 * 4
    drawn = {(r["image"], r["target"]) for r in rows if r["target_kind"] == "random"}
    assert len(drawn) == 2  # the same for every network
    for i in range(0, len(rows), 4):
        lip, rec, crown, best = rows[i : i + 4]
        assert [r["method"] for r in (lip, rec, crown, best)] == ["Fast-Lip", "RecurJac-B", "CROWN", "our default"]
        assert 0 < float(lip["radius"]) < float(best["attack"])
        assert float(crown["radius"]) <= float(best["radius"]) < float(best["attack"])
        assert float(lip["radius"]) <= 1.1 * float(rec["radius"]) < 1.1 * float(best["attack"])
        assert best["target"] != best["label"]
        outputs = rj.load(files[1:][(i // 24) % 2])(images.x_test[int(lip["image"])].double().unsqueeze(0))[0]
        order = outputs.argsort(descending=True).tolist()
        if lip["target_kind"] != "random":
            assert int(lip["target"]) == order[1 if lip["target_kind"] == "runner-up" else -1]
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert "0.02256" in text


def test_the_integral_alone_is_what_theorem_2_proves(files: list[Path], images: Images) -> None:
    """On a uniform grid, summed here, the radius is about the same; and no bound of the margin is part of it."""
    network, x = rj.load(files[2]), images.x_test[0].double()
    label = int(network(x.unsqueeze(0)).argmax())
    how = rj.JacobianNorm(rj.RecurJac(), rj.SignSum())
    found = rj.certified_radius(
        network,
        rj.LpBall(x, 0, clip=(0, 1)),
        label=label,
        proofs=(rj.LipschitzIntegral(how),),
        search=rj.RadiusSearch(24),
    )
    radius = float(found.radius[0])
    assert radius == float(found.by_integral[0]) > 0 == float(found.by_margin[0])
    margin = network.margin(label, int(found.target[0]))
    steps, left, reached = 24, float(margin(x.unsqueeze(0))), 0.0
    for k in range(1, 2 * steps):
        r = radius * k / steps
        slope = rj.lipschitz(margin, rj.LpBall(x, r, clip=(0, 1)), method=how, search=rj.Search(work=0)).upper
        if left <= float(slope) * radius / steps:
            reached += left / float(slope)
            break
        left, reached = left - float(slope) * radius / steps, r
    assert radius == pytest.approx(reached, rel=0.06)


@pytest.mark.slow
def test_a_killed_study_and_two_processes_give_the_same_table(tmp_path: Path, files: list[Path]) -> None:
    more = ("--radius", "0.1")
    assert main(command("figure1", files, tmp_path / "a", *more)) == 0
    (tmp_path / "b").mkdir()
    lines = (tmp_path / "a" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b" / "rows.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])
    (tmp_path / "b" / "manifest.json").write_bytes((tmp_path / "a" / "manifest.json").read_bytes())
    assert main(command("figure1", files, tmp_path / "b", *more, "--jobs", "2")) == 0
    for name in ("figure1.csv", "figure1.md", "figure1.svg", "figure1.png", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--images", "0"), "give --images from 1 to"),
        (("--images", "100000"), "give --images from 1 to"),
        (("--jobs", "0"), "at least 1 process"),
        (("--epochs", "0"), "give at least 1"),
        (("--network", "no=such"), "this experiment has no network 'no'"),
        (("--network", "5layer_relu_50=none.npz"), "there is no file none.npz"),
        (("--network", "5layer_relu_50"), "write NAME=FILE"),
        (("--radius", "-1"), "radi"),
        (("--data", "none.npz"), "none.npz"),
    ],
)
def test_wrong_requests(
    tmp_path: Path, files: list[Path], more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("figure3", files, tmp_path / "out", *more)) in (1, 2)
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_a_network_that_does_not_fit_the_images(
    tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.npz"
    np.savez(path, W0=np.ones((10, 3)), activation="relu")
    assert main(command("figure3", [*files[:2], path], tmp_path / "out")) == 2
    assert "has images of 64 pixels" in capsys.readouterr().err


def test_costs_are_counted() -> None:
    sizes = (7, 5, 4, 3)
    network = rj.load([(np.ones((sizes[i + 1], sizes[i])), None) for i in range(3)], activation="relu")
    assert cost(network, "Fast-Lip") == cost(network, "RecurJac-B") == 0
    assert cost(network, "RecurJac-F0") == 7 * 2 * (5 * 5 + 4 * (5 + 20) + 3 * (5 + 20 + 12))
    assert cost(network, "RecurJac-F1") == 5 * 2 * (4 * 4 + 3 * (4 + 12))
    assert cost(rj.load([(np.ones((3, 5)), None)], activation="relu"), "RecurJac-F1") == 0
