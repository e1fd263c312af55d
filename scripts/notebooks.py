"""Executes the scripts of examples/ as notebooks, and writes them beside the scripts with what they print and show.

    python -m scripts.notebooks            # or make notebooks
    python -m scripts.notebooks pinn gan

Needs `pip install '.[notebooks]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 900
"""The time that a cell may take."""


def cells(script: Path) -> Any:
    """The notebook of a script in jupytext's percent format, not executed; equal scripts give equal notebooks."""
    import jupytext

    notebook: Any = jupytext.read(script)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for k, cell in enumerate(notebook.cells):
        cell.id = f"cell-{k}"
    return notebook


def executed(script: Path) -> Any:
    """The same with outputs.  Raises nbclient's CellExecutionError where a cell fails."""
    from nbclient import NotebookClient

    notebook = cells(script)
    NotebookClient(notebook, timeout=SECONDS, kernel_name=KERNEL["name"], record_timing=False).execute()
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def main() -> None:
    import jupytext

    known = sorted(p.stem for p in EXAMPLES.glob("*.py"))
    parser = argparse.ArgumentParser(description="Executes the scripts of examples/ as notebooks.")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(known)}; all by default")
    names = parser.parse_args().names or known
    if unknown := set(names) - set(known):
        parser.error(f"there is no example {min(unknown)!r}; give some of {', '.join(known)}")
    for name in names:
        jupytext.write(executed(EXAMPLES / f"{name}.py"), EXAMPLES / f"{name}.ipynb")
        print(f"examples/{name}.ipynb")


if __name__ == "__main__":
    main()
