"""`recurjac report`: the page shows what commands found, in one file; nothing from another file is more than text."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurjac as rj
from recurjac.cli import main
from recurjac.report import markdown
from recurjac.report.axes import linear_axis, log_axis
from recurjac.report.cells import number
from recurjac.report.charts import Series, Span, bars, curves
from recurjac.report.numbers import show_lower, show_upper
from recurjac.report.panels import Panel, read_panels
from recurjac.report.pixels import ENDLESS, FALLS, OPEN, RISES, SCALE, picture, png, signs, tiles, widths
from tests.pages import HOSTILE, Page, experiment, read

DIGITS = str(files("recurjac") / "data" / "digits.npz")
IMAGES = ["--input", f"{DIGITS}:x", "--index", "3", "5", "--clip", "0", "1"]
RUNS: dict[str, list[str]] = {
    "lipschitz": [DIGITS, *IMAGES, "--radius", "0.01", "0.1", "inf", "--method", "one-pass"],
    "certify": [DIGITS, *IMAGES, "--intervals", "4", "--method", "fastlip"],
    "landscape": [DIGITS, *IMAGES, "--class", "3", "--norm", "2", "--method", "fastlip"],
    "monotone": [DIGITS, *IMAGES, "--class", "3", "--radius", "0.02", "--method", "one-pass"],
    "jacobian": [DIGITS, *IMAGES, "--radius", "0.01", "--method", "one-pass"],
    "inspect": [DIGITS],
    "demo": ["--radius", "0.1"],
}

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every command found, COMMAND.json, bounds.npz, and the folder of an experiment."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("recurjac.cli.certify.Attack", lambda seed: rj.Attack(4, 2, 3, seed))
        for module in ("bounds", "demo"):
            patch.setattr(f"recurjac.cli.{module}.lipschitz", quick)
        for name, arguments in RUNS.items():
            more = ["--output", "bounds.npz"] if name == "jacobian" else []
            assert main([name, *arguments, *more, "--json", f"{name}.json", "--quiet"]) == 0
    experiment(folder / "figure1")
    return folder


def quick(*args: Any, **how: Any) -> rj.Lipschitz:
    """`lipschitz` without a search for the lower bound."""
    return rj.lipschitz(*args, **{**how, "search": rj.Search(work=0)})


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `recurjac report`: its exit code and what it says."""

    def once(*args: object) -> tuple[int, str]:
        code = main(["report", *map(str, args)])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return once


@pytest.fixture
def page(run: Run, tmp_path: Path) -> Callable[..., Page]:
    """The page of some results."""

    def once(*sources: Path) -> Page:
        path = tmp_path / "page.html"
        assert run(*sources, "-o", path, "--quiet") == (0, "")
        return read(path.read_text(encoding="utf-8"))

    return once


def everything(results: Path) -> list[Path]:
    return [*(results / f"{name}.json" for name in RUNS), results / "bounds.npz", results / "figure1"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return rows


def changed(results: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a result with something changed in it."""
    report = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    change(report)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    return path


# What a page shows


def test_a_page_of_everything(results: Path, page: Callable[..., Page]) -> None:
    found = page(*everything(results))
    assert len(found.all("section")) == 9
    for title in ("Certified radii, l∞", "Balls without a stationary point, l2", "Stages of the network", "figure1"):
        assert title in found.text("h2")
    digest = json.loads((results / "certify.json").read_text())["model"]["sha256"]
    assert found.text("dd").count(digest) == 6
    assert digest[:12] in found.text("td")
    assert "2018-10-28T12:00:00Z" in found.text("td")
    assert len([s for s in found.all("svg") if "aria-label" in s]) == 4


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [("lipschitz", ["upper"], ["lower"]), ("demo", ["upper"], ["lower"]), ("certify", ["attack"], ["radius"]),
     ("landscape", ["upper"], ["radius", "lower"]), ("jacobian", ["largest", "widest"], ["smallest"])],
)  # fmt: skip
def test_bounds_are_rounded_to_their_safe_side(
    results: Path, page: Callable[..., Page], name: str, up: list[str], down: list[str]
) -> None:
    path = results / f"{name}.json"
    cells = page(path).text("td")
    for row in rows_of(path):
        assert not {show_upper(number(row[k])) for k in up} - set(cells)
        assert not {show_lower(number(row[k])) for k in down} - set(cells)


def test_numbers_between_six_digits(results: Path, tmp_path: Path, page: Callable[..., Page]) -> None:
    path = changed(results, tmp_path, "lipschitz", lambda r: r["results"][0].update(upper=2.0000001, lower=1.9999999))
    cells = page(path).text("td")
    assert {"2.00001", "1.99999"} <= set(cells)
    assert {"inf"} <= set(cells)


def test_trends_are_counted(results: Path, page: Callable[..., Page]) -> None:
    found = page(results / "monotone.json")
    for row in rows_of(results / "monotone.json"):
        trends = [f["trend"] for f in row["features"]]
        assert str(trends.count("undecided")) in found.text("td")
        assert f"input {row['index']}, radius 0.02, class 3" in found.text("figcaption")
    assert len(found.all("img")) == 4


def test_named_features_are_listed(results: Path, tmp_path: Path, page: Callable[..., Page]) -> None:
    def name(report: dict[str, Any]) -> None:
        for row in report["results"]:
            row["features"] = [{**f, "feature": f"age {f['feature']}"} for f in row["features"]]

    found = page(changed(results, tmp_path, "monotone", name))
    assert found.all("img") == []
    assert "age 63" in found.text("th")
    assert "14 more rows" in found.text("summary")


def test_whether_rounding_is_covered_is_said(results: Path, tmp_path: Path, page: Callable[..., Page]) -> None:
    assert "Rounding is covered: the certified numbers hold in real arithmetic." in page(results / "certify.json").text(
        "p"
    )
    path = changed(results, tmp_path, "certify", lambda r: r["results"][1].update(rigorous=False, reason="of tanh"))
    assert "Floating-point rounding is not covered: of tanh." in page(path).text("p")
    assert "Whether rounding is covered is not stated." in page(results / "bounds.npz").text("p")
    deployed = {"arithmetic": "deployed float32"}
    program = changed(results, tmp_path, "certify", lambda r: r["results"][1]["provenance"].update(deployed))
    both = "the certified numbers hold in real arithmetic and for programs in float32, in any order of summation."
    assert f"Rounding is covered: {both}" in page(program).text("p")


def test_long_tables_are_folded(results: Path, page: Callable[..., Page]) -> None:
    found = page(results / "figure1")
    assert "10 more rows" in found.text("summary")
    assert "figure1.csv, rows 51 to 60" in found.text("caption")
    assert "row 60" in found.text("th")


def test_tables_of_an_experiment(results: Path, page: Callable[..., Page]) -> None:
    found = page(results / "figure1")
    assert {"2.00001", "2", "12.5", "12.25", "1.23"} <= set(found.text("td"))
    assert [t for t in found.text("th") if t.startswith("RecurJac")] == ["RecurJac-B"]
    assert "figure figure1" in [i["alt"] for i in found.all("img")]
    assert "settings.radii" in found.text("dt")
    assert "The first 64 panels are shown; there are 6 more." in found.text("p")
    assert len(found.all("img")) == 1 + 3 * 64


def test_a_manifest_is_enough(tmp_path: Path, page: Callable[..., Page]) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "manifest.json").write_text('{"rigorous": false, "reason": "convolutions by cuDNN"}')
    found = page(tmp_path / "bare")
    assert "bare" in found.text("h2")
    assert "Floating-point rounding is not covered: convolutions by cuDNN." in found.text("p")


def test_bounds_of_samples_and_outputs(results: Path, page: Callable[..., Page]) -> None:
    found = page(results / "bounds.npz")
    titles = [t for t in found.text("figcaption") if t.startswith("sample")]
    assert titles == [f"sample {i}, output {k}" for i in range(2) for k in range(10)]
    with np.load(results / "bounds.npz") as arrays, np.load(DIGITS) as digits:
        np.testing.assert_array_equal(arrays["x"], digits["x"][[3, 5]].astype(np.float64))
        rises, falls = int((arrays["lower"][0, 0] > 0).sum()), int((arrays["upper"][0, 0] < 0).sum())
    assert f"signs: {rises} rise, {falls} fall, {64 - rises - falls} open" in found.text("p")


def test_no_rows(results: Path, tmp_path: Path, page: Callable[..., Page]) -> None:
    found = page(changed(results, tmp_path, "certify", lambda r: r.update(results=[])))
    assert "nearest adversary" in found.text("th")


def test_the_same_results_make_the_same_page(results: Path, run: Run, tmp_path: Path) -> None:
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for path in pages:
        assert run(*everything(results), "-o", path)[0] == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


# Nothing from a file is more than text


def test_everything_from_files_is_escaped(results: Path, tmp_path: Path, page: Callable[..., Page]) -> None:
    def attack(report: dict[str, Any]) -> None:
        report["model"]["path"] = HOSTILE
        report["recurjac"] = HOSTILE + "\0\ud800"
        report["settings"][HOSTILE] = [HOSTILE, {HOSTILE: 1}]
        for row in report["results"]:
            row.update(method=HOSTILE, remark=HOSTILE, reason=HOSTILE, rigorous=False, norm=HOSTILE)

    path = changed(results, tmp_path, "certify", attack)
    found = page(path, results / "figure1")
    assert HOSTILE in found.text("dd")
    assert HOSTILE in found.text("td")
    assert "alert" not in "".join(found.text("script"))
    assert "http://a.b/c" not in "".join(t for _, t in found.texts)


def test_markdown() -> None:
    text = "intro *as is*\n# A **b**\n|a|b|\n|-|-|\n|1\\|2|x|\n|3|\ntext\n- one\n  more\n- `two`\n\n```py\n# no\n```\n"
    got = markdown.convert(text, "t").text
    assert "<p>intro *as is*</p><h3>A <strong>b</strong></h3>" in got
    assert "<caption>A b</caption>" in got
    assert '<th scope="row">1|2</th><td>x</td>' in got
    assert '<th scope="row">3</th><td></td>' in got
    assert "<ul><li>one more</li><li><code>two</code></li></ul>" in got
    assert '<pre tabindex="0"><code># no</code></pre>' in got


# Requests that are refused


def test_wrong_files(results: Path, run: Run, tmp_path: Path) -> None:
    """One sentence each, exit code 2, and no page."""
    (tmp_path / "empty").mkdir()
    texts = {
        "text": "hello", "list": "[]", "other": '{"recurjac": "0.1.0"}', "nan": '{"a": NaN}', "deep": "[" * 100000,
        "bench.json": '{"recurjac": "1", "command": "dance", "model": {}, "settings": {}, "results": []}',
        "cut.npz": "PK\3\4 no zip", "no.npz": "hello",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "pickled.npz").write_bytes(pickle.dumps({"x": 1}))
    np.savez(tmp_path / "objects.npz", image=np.array([{}], dtype=object), lower=[0], upper=[0])
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    names = [*texts, "binary", "pickled.npz", "objects.npz", "one.npz", "empty", "missing"]
    for name in names:
        code, said = run(results / "certify.json", tmp_path / name, "-o", tmp_path / "page.html")
        assert (code, said.count("\n"), name in said) == (2, 1, True), said
    assert not (tmp_path / "page.html").exists()
    assert "Python objects" in run(tmp_path / "objects.npz", "-o", tmp_path / "page.html")[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["results"][1].pop("attack"), ["result 1", "'attack'"]),
        (lambda r: r["results"][0].update(radius=None), ["'radius' of result 0", "not a number"]),
        (lambda r: r["results"][0].update(radius=True), ["not a number"]),
        (lambda r: r["results"][0].update(radius=10**400), ["float64"]),
        (lambda r: r["results"][0].update(index="0"), ["whole number"]),
        (lambda r: r["results"][0].update(rigorous="yes"), ["rounding"]),
        (lambda r: r["results"].append(3), ["result 2"]),
        (lambda r: r["model"].update(path=3), ["'path'"]),
    ],
)
def test_wrong_rows(results: Path, run: Run, tmp_path: Path, change: Callable[[Any], object], words: list[str]) -> None:
    path = changed(results, tmp_path, "certify", change)
    code, said = run(path, "-o", tmp_path / "page.html")
    assert (code, said.count("\n")) == (2, 1)
    assert not [w for w in words if w not in said]


@pytest.mark.parametrize("change", [{"trend": "up"}, {"lower": 9, "upper": 1}, {"feature": 3}, {"upper": None}])
def test_wrong_features(results: Path, run: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    path = changed(results, tmp_path, "monotone", lambda r: r["results"][0]["features"][0].update(change))
    code, said = run(path, "-o", tmp_path / "page.html")
    assert (code, said.count("\n")) == (2, 1)


def test_wrong_arrays(run: Run, tmp_path: Path) -> None:
    ok = np.zeros((2, 4))
    wrong: list[dict[str, Any]] = [
        {"lower": ok, "upper": ok},
        {"image": ok, "lower": ok},
        {"image": ok, "lower": ok, "upper": ok[:1]},
        {"image": ok, "lower": ok + 1, "upper": ok},
        {"image": ok, "lower": ok + nan, "upper": ok},
        {"image": ok + inf, "lower": ok, "upper": ok},
        {"image": ok, "lower": ok, "upper": ok + 1j},
        {"image": ok, "lower": ok, "upper": ok, "title": np.array(["a"])},
        {"image": ok, "lower": ok, "upper": ok, "title": np.array([1, 2])},
        {"image": ok[:0], "lower": ok[:0], "upper": ok[:0]},
        {"x": ok, "lower": ok[0], "upper": ok[0]},
        {"x": ok, "lower": np.zeros((2, 3, 5)), "upper": np.zeros((2, 3, 5))},
        {"x": np.float64(1), "lower": ok, "upper": ok},
    ]
    for i, arrays in enumerate(wrong):
        np.savez(tmp_path / f"{i}.npz", **arrays)
        code, said = run(tmp_path / f"{i}.npz", "-o", tmp_path / "page.html")
        assert (code, said.count("\n")) == (2, 1), (i, said)


def test_wrong_experiments(run: Run, tmp_path: Path) -> None:
    wrong = {
        "manifest.json": "[]", "ragged.csv": "a,b\n1\n", "empty.csv": "", "quote.csv": 'a\n"b', "a.png": "no",
        "a.svg": "no", "panels.npz": "no",
    }  # fmt: skip
    for i, (name, text) in enumerate(wrong.items()):
        folder = experiment(tmp_path / f"e{i}")
        (folder / name).write_text(text)
        code, said = run(folder, "-o", tmp_path / "page.html")
        assert (code, said.count("\n"), name in said) == (2, 1, True), said


def test_results_are_never_overwritten(results: Path, run: Run, tmp_path: Path) -> None:
    folder = experiment(tmp_path / "e")
    os.link(folder / "manifest.json", tmp_path / "linked")
    path = changed(results, tmp_path, "certify", dict.copy)
    for source, output in ((path, path), (folder, folder / "e.csv"), (folder, tmp_path / "linked")):
        before = output.read_bytes()
        code, said = run(source, "-o", output)
        assert (code, "choose another name" in said, output.read_bytes() == before) == (2, True, True)
    assert run(path, "-o", tmp_path / "none" / "page.html")[0] == 2
    assert run(path, "-o", tmp_path)[0] == 2


# Pictures and charts


def test_signs_and_widths() -> None:
    lower, upper = np.array([[[1.0, -2.0, -1.0, 0.0]]]), np.array([[[2.0, -1.0, 1.0, 0.0]]])
    assert signs(lower, upper)[0].tolist() == [list(c) for c in (RISES, FALLS, OPEN, OPEN)]
    width = np.array([[[0.0, 5.0, inf, 1.0]]])
    assert widths(width)[0].tolist() == [list(c) for c in (SCALE[0], SCALE[5], ENDLESS, SCALE[1])]
    assert widths(np.full((1, 1, 2), inf))[0].tolist() == [list(ENDLESS)] * 2
    assert widths(np.full((1, 1, 2), 3.0))[0].tolist() == [list(SCALE[0])] * 2


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((4, 6), (4, 6)), ((1, 4, 6), (4, 6)), ((3, 4, 6), (4, 6)), ((16,), (4, 4)), ((6,), (1, 6)), ((1,), (1, 1)),
     ((2, 3, 4, 5), (1, 120)), ((2, 4, 6), (4, 13))],
)  # fmt: skip
def test_pictures_have_the_shape_of_the_input(shape: tuple[int, ...], drawn: tuple[int, int]) -> None:
    assert picture(tiles(np.random.default_rng(0).random(shape))).shape == (*drawn, 3)


def test_pictures() -> None:
    assert picture(np.array([[[0.0, 0.5, 1.0]]]))[0, :, 0].tolist() == [0, 128, 255]
    assert picture(np.array([[[-2.0, 0.0, 2.0]]]))[0, :, 0].tolist() == [0, 128, 255]
    assert picture(np.array([[[1.0]], [[0.0]], [[0.5]]])).tolist() == [[[255, 0, 128]]]
    assert picture(np.full((1, 1, 2), -5.0)).max() == 0


def test_png_files_hold_the_colours() -> None:
    image = pytest.importorskip("PIL.Image")
    from io import BytesIO

    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.array(image.open(BytesIO(png(colours)))), colours)


def test_unbounded_bounds_have_a_panel(tmp_path: Path) -> None:
    ends = np.array([[inf, 1.0, -inf, 2.0]])
    np.savez(tmp_path / "a.npz", image=np.zeros((1, 4)), lower=np.minimum(ends, 0), upper=np.maximum(ends, 0))
    (panel,) = read_panels(tmp_path / "a.npz")
    assert "widths: 1 to 2, 2 unbounded" in panel.markup().text
    huge = np.full(4, 1e308)
    assert "4 unbounded" in Panel("a", None, -huge, huge).markup().text
    assert "0 to 0" in Panel("a", None, np.full(4, inf), np.full(4, inf)).markup().text


@pytest.mark.parametrize(
    ("least", "most"), [(1.0, 1.0), (1.2, 1.3), (0.001, 1.0), (5e-324, 1e308), (61.9, 67906.0), (1e-5, 1e9)]
)
def test_axes_hold_their_numbers(least: float, most: float) -> None:
    for axis in (log_axis(least, most), linear_axis(max(most, 1e-300))):
        assert -1e-6 <= axis.place(least) <= axis.place(most) <= 1 + 1e-6
        assert 2 <= len(axis.ticks) <= 10
        places = [at for at, _ in axis.ticks]
        assert places == sorted(places)


def test_ticks_are_where_they_say() -> None:
    for axis in (log_axis(0.03, 70.0), log_axis(2.0, 30.0), linear_axis(0.37)):
        for at, label in axis.ticks:
            if float(label) > 0:
                assert axis.place(float(label)) == pytest.approx(at, abs=1e-9)


def test_charts_of_nothing() -> None:
    assert curves([Series("a", ((inf, 1.0), (0.0, 2.0), (1.0, inf)), 0, False)], "x", "y", "c") is None
    assert bars([Span("a", 0.0, None), Span("b", inf, inf)], "x", "c") is None


def test_bars_end_where_the_numbers_are() -> None:
    chart = bars([Span("a", 1.0, 4.0), Span("b", 2.0, inf), Span("c", 0.0, 4.0)], "x", "c")
    assert chart is not None
    wide = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', chart.text)]
    assert wide[1] == pytest.approx(2 * wide[0], abs=0.2)
    assert wide[2] == 0
    assert chart.text.count('class="arrow"') == 1


# In a browser

WRAPPER = """<!DOCTYPE html><body><script>
const found = [];
const outside = (a, b) => {
  const [p, q] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
  return p.left < q.left - 1 || p.right > q.right + 1 || p.top < q.top - 1 || p.bottom > q.bottom + 1;
};
const look = (frame) => {
  const inside = frame.contentDocument, all = (what) => [...inside.querySelectorAll(what)];
  all("details").forEach((d) => { d.open = true; });
  found.push({
    width: frame.clientWidth, overflow: inside.documentElement.scrollWidth - inside.documentElement.clientWidth,
    tables: all("table").length, images: all("img").length, tall: inside.body.scrollHeight,
    blank: all("img").filter((i) => !(i.naturalWidth > 0 && i.clientWidth > 0 && i.clientHeight > 0)).length,
    ground: frame.contentWindow.getComputedStyle(inside.body).maxWidth,
    clipped: all("svg.chart text").filter((t) => outside(t, t.closest("svg"))).length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map((e) => e.name.slice(0, 5)),
  });
  if (found.length == 2) { document.body.setAttribute("data-found", JSON.stringify(found)); console.log("measured"); }
};
for (const width of [390, 1280]) {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 900px`;
  frame.onload = () => look(frame);
  frame.src = "page.html";
  document.body.append(frame);
}
</script></body>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_in_a_browser(results: Path, run: Run, tmp_path: Path) -> None:
    """Styles apply, every image is drawn, nothing is loaded or logged, and nothing overflows a phone or a desktop."""
    assert run(*everything(results), "-o", tmp_path / "page.html")[0] == 0
    (tmp_path / "wrapper.html").write_text(WRAPPER, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--enable-logging=stderr",
             "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    done = subprocess.run(  # noqa: S603
        ["chromium", *flags, "--dump-dom", (tmp_path / "wrapper.html").as_uri()],  # noqa: S607
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(logged) == 1, logged
    assert "measured" in logged[0]
    dom = read_found(done.stdout)
    for found in dom:
        assert found["overflow"] == 0, found
        assert (found["blank"], found["clipped"]) == (0, 0), found
        assert (found["tables"] > 10, found["images"] > 100, found["tall"] > 2000) == (True, True, True)
        assert found["ground"] == "1152px"
        assert set(found["loaded"]) <= {"data:"}
    assert sorted(f["width"] for f in dom) == [390, 1280]


def read_found(dom: str) -> list[dict[str, Any]]:
    page = Page()
    page.feed(dom)
    found: list[dict[str, Any]] = json.loads(page.all("body")[0]["data-found"])
    return found
