"""The pages under docs/ show what one gets, name everything public, and link to what is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import recurjac as rj
from recurjac import extend, plot, testing, training
from recurjac.cli import main
from recurjac.cli.grammar.parser import parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {str(p.relative_to(DOCS)): p.read_text(encoding="utf-8") for p in sorted(DOCS.rglob("*.md"))}
PAGES = {name: text for name, text in PAGES.items() if not name.startswith("_build")}
API = "\n".join(text for name, text in PAGES.items() if name.startswith("api/"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The lines of its shell blocks that run the program."""
    return [line for b in blocks(page, "sh") for line in b.splitlines() if line.startswith("recurjac ")]


DEAR = ("methods.md", "tutorial.md")
"""Pages that train or measure."""
ALONE = "extending.md"
"""A page that defines classes, which would be there for all later tests."""
RUN = [
    pytest.param(p, marks=pytest.mark.slow) if p in DEAR else p
    for p in PAGES
    if p != ALONE and (blocks(p, "python") or commands(p))
]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory to write in that shows the package as a clone does."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("page", RUN)
def test_examples_run(page: str) -> None:
    """In the order of the page: all Python in one namespace, then the commands, on the files that it wrote."""
    exec("\n".join(blocks(page, "python")), {})  # noqa: S102  # the pages' own code
    for command in commands(page):
        assert main(shlex.split(command)[1:]) == 0, command


@pytest.mark.usefixtures("clone")
def test_examples_that_define_classes_run() -> None:
    assert not commands(ALONE)
    code = "\n".join(blocks(ALONE, "python"))
    run = [sys.executable, "-W", "error", "-"]
    done = subprocess.run(run, input=code, text=True, capture_output=True, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")


def shown(page: str) -> list[tuple[str, str]]:
    """The commands after a prompt, each with what is printed below it."""
    parts = [re.split(r"^\$ ", b, flags=re.MULTILINE)[1:] for b in blocks(page, "console")]
    return [tuple(p.split("\n", 1)) for part in parts for p in part]


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize(("command", "printed"), [s for p in PAGES for s in shown(p)])
def test_what_commands_print(command: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of numbers, to the digits shown; the last column is seconds."""
    assert main(shlex.split(command)[1:]) == 0
    found = [line.split()[:-1] for line in capsys.readouterr().out.splitlines()]
    rows = [line.split()[:-1] for line in printed.splitlines() if re.match(r" +\d", line)]
    assert rows
    for row in rows:
        assert any(_same(row, other) for other in found), row


def _same(row: list[str], other: list[str]) -> bool:
    def close(a: str, b: str) -> bool:
        try:
            return float(a) == pytest.approx(float(b), rel=1e-5)
        except ValueError:
            return a == b

    return len(row) == len(other) and all(map(close, row, other))


PUBLIC = (
    *(f"recurjac.{name}" for name in rj.__all__),
    *(f"recurjac.extend.{name}" for name in extend.__all__ if name not in rj.__all__),
    *(f"recurjac.testing.{name}" for name in testing.__all__),
    *(f"recurjac.plot.{name}" for name in plot.__all__),
    *(f"recurjac.training.{name}" for name in training.__all__),
)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"^\.\. auto(class|function|exception|data):: {re.escape(name)}$", API, re.MULTILINE)


def test_nothing_is_documented_twice() -> None:
    names = re.findall(r"^\.\. auto\w+:: (\S+)$", API, re.MULTILINE)
    assert len(names) == len(set(names))


def test_every_command_is_documented() -> None:
    listed = re.findall(r"^```\{command-help\} *(\S*)$", PAGES["cli.md"], re.MULTILINE)
    top = next(a.choices for a in parser()._actions if a.dest == "command")
    assert listed == ["", *(top or ())]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Links to files, and entries of tables of contents."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", PAGES[page]):
        assert ((DOCS / page).parent / target).exists(), target
    for tree in blocks(page, r"\{toctree\}[^`]*?"):
        for entry in (line for line in tree.splitlines() if line and not line.startswith(":")):
            assert ((DOCS / page).parent / f"{entry}.md").exists(), entry


CITED = re.compile(r"docs/mathematics\.md((?:, §[\d.]*\d)*)")


def sources(*folders: str) -> dict[str, str]:
    """The text of every file with Python or prose below some folders of the repository."""
    files = (p for folder in folders for ending in ("py", "md") for p in (ROOT / folder).rglob(f"*.{ending}"))
    return {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in files if "_build" not in p.parts}


def test_citations_of_the_mathematics_name_sections_that_exist() -> None:
    sections = re.findall(r"^#{2,3} (\d+(?:\.\d+)?) ", PAGES["mathematics.md"], re.MULTILINE)
    assert len(sections) == len(set(sections))
    found = [(name, cited) for name, text in sources("src").items() for cited in CITED.findall(text)]
    assert found
    for name, cited in found:
        numbers = re.findall(r"[\d.]*\d", cited)
        assert numbers, f"{name} cites the page without a section"
        assert set(numbers) <= set(sections), (name, cited)


def test_nothing_cites_a_document_outside_the_repository() -> None:
    name = "MATH" + " §"  # in two parts, as this file is searched, too
    assert [f for f, text in sources("src", "tests", "benchmarks", "docs", "scripts").items() if name in text] == []
