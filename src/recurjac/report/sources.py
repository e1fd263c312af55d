"""Reading results of any kind, and listing their files."""

from __future__ import annotations

from pathlib import Path

from recurjac.errors import InvalidRequest, UnreadableFile
from recurjac.report import panels
from recurjac.report.experiments import read_experiment
from recurjac.report.markup import element
from recurjac.report.runs import read_run
from recurjac.report.section import Rounding, Section


def read_source(path: Path) -> Section:
    """The section for the folder of an experiment, a JSON result, or a .npz file of bounds.

    Raises UnreadableFile if the path is none of these, or if its content is damaged.
    """
    try:
        if path.is_dir():
            return read_experiment(path)
        with path.open("rb") as file:
            head = file.read(2)
        return _panels(path) if head == b"PK" or path.suffix.lower() == ".npz" else read_run(path)
    except RecursionError as error:
        raise UnreadableFile(f"{path} is nested too deeply for a result; give a file that a command wrote") from error
    except FileNotFoundError as error:
        raise UnreadableFile(f"there is no file {path}; check the path") from error
    except (InvalidRequest, UnreadableFile):
        raise
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} cannot be read: {error}; check the path") from error


def _panels(path: Path) -> Section:
    found = panels.read_panels(path)
    title = "Signs and widths of gradient bounds"
    shape = " x ".join(map(str, found[0].lower.shape))
    note = element("p", f"{len(found)} panels of inputs of shape {shape}.")
    return Section(title, str(path), "", "", "", "", "", Rounding(None), (note, panels.markup(found)))


def check_kept(output: Path, sources: list[Path]) -> None:
    """Raise InvalidRequest if writing `output` would overwrite one of the results, or a file in one of them."""
    if not output.exists():
        return
    for source in sources:
        for file in [source, *(source.iterdir() if source.is_dir() else ())]:
            if file.exists() and output.samefile(file):
                raise InvalidRequest(f"--output {output}: it is one of the results, {file}; choose another name")
