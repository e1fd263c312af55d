"""`recurjac sweep`: many networks, inputs, radii and questions, in many processes."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="many networks, inputs, radii and questions",
        description="Every question of a .toml file about every network and input. Each finished task is kept at "
        "once, so that the same command continues after an interruption, and questions can be added.",
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="networks, inputs, radii and questions")
    parser.add_argument("--out", metavar="FOLDER", help="where results are kept (`out` of the file, or results/NAME)")
    group = parser.add_argument_group("run")
    group.add_argument("--jobs", type=int, default=1, metavar="J", help="number of processes, each with one thread (1)")
    group.add_argument("--ray", metavar="ADDRESS",
                       help="do the tasks on this Ray cluster: auto for one on this machine, or local to start one "
                       "with --jobs workers")  # fmt: skip
    group.add_argument("--gpus", type=float, default=0.0, metavar="G", help="share of a GPU for each worker of Ray (0)")
    group.add_argument("--fresh", action="store_true", help="discard existing results")
    group = parser.add_argument_group("results")
    group.add_argument("--status", action="store_true", help="only say how much is done")
    group.add_argument(
        "--export", metavar="FILE", help="only write the finished rows to a .csv, .jsonl or .parquet file"
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no table")
    parser.set_defaults(run=Runs("sweeping", "run"), json=None)
