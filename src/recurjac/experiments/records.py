"""The files that training writes: NAME.npz (the network), NAME.json (its record), NAME.checkpoint until both exist.

Every file is written under another name and then renamed, so that it is complete at any moment.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from recurjac.errors import InvalidRequest, UnreadableFile
from recurjac.loading.messages import first_line
from recurjac.version import __version__

Description: TypeAlias = Mapping[str, Any]
"""`recipe` and `data` in JSON form: how a network was trained, and on what."""


@final
@dataclass(frozen=True)
class Outcome:
    """The record of a finished network: the SHA-256 of its file, and its results on the test images."""

    sha256: str
    accuracy: float
    robust: float | None
    seconds: float


@final
@dataclass(frozen=True)
class Checkpoint:
    """Everything that training needs to continue after some epochs as if it had never stopped."""

    epochs: int
    weights: list[Tensor]
    optimizer: dict[str, Any]
    generator: Tensor
    seconds: float


@final
@dataclass(frozen=True)
class Place:
    """The paths of the network `name` in `folder`."""

    folder: Path
    name: str

    @property
    def network(self) -> Path:
        return self.folder / f"{self.name}.npz"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def unfinished(self) -> Path:
        return self.folder / f"{self.name}.checkpoint"

    def make(self) -> None:
        """Create the folder.  Raises InvalidRequest if that fails or the folder is not writable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(
                f"networks cannot be kept in {self.folder}: {error.strerror}; choose another folder"
            ) from error
        if not os.access(self.folder, os.W_OK):
            raise InvalidRequest(f"networks cannot be kept in {self.folder}: it is not writable; choose another folder")

    def outcome(self, wanted: Description) -> Outcome | None:
        """The record of the network, or None if it is not finished.

        Raises InvalidRequest if it was made by another recipe or from other data, or has no record; UnreadableFile if
        the network or its record is damaged.
        """
        if not self.network.is_file():
            return None
        if not self.record.is_file():
            if self.unfinished.is_file():
                return None
            raise InvalidRequest(
                f"{self.network} would be overwritten, and no {self.record.name} says how it was trained; "
                "move it away or choose another folder"
            )
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
            made, robust = _described(found), found["robust"]
            accuracy, seconds = float(found["accuracy"]), float(found["seconds"])
            outcome = Outcome(str(found["sha256"]), accuracy, None if robust is None else float(robust), seconds)
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise UnreadableFile(
                f"{self.record} is not a record of training: {first_line(error)}; remove it"
            ) from error
        self._same(self.network, made, wanted)
        if hashlib.sha256(self.network.read_bytes()).hexdigest() != outcome.sha256:
            raise UnreadableFile(f"{self.network} is not the file that {self.record.name} describes; remove both")
        return outcome

    def checkpoint(self, wanted: Description) -> Checkpoint | None:
        """The checkpoint of an interrupted training; raises the same exceptions as `outcome`."""
        if not self.unfinished.is_file():
            return None
        try:
            found = torch.load(self.unfinished, weights_only=True)
            made = _described(json.loads(found.pop("made")))
            kept = Checkpoint(**found)
        except Exception as error:
            raise UnreadableFile(f"{self.unfinished} is not a checkpoint: {first_line(error)}; remove it") from error
        self._same(self.unfinished, made, wanted)
        return kept

    def keep(self, checkpoint: Checkpoint, made: Description) -> None:
        """Replace the last checkpoint."""
        buffer = io.BytesIO()
        torch.save({**vars(checkpoint), "made": json.dumps(made)}, buffer)
        _write(self.unfinished, buffer.getvalue())

    def finish(
        self, arrays: Mapping[str, Any], made: Description, accuracy: float, robust: float | None, seconds: float
    ) -> Outcome:
        """Write the network, then its record, then delete the checkpoint; a kill in between leaves the last epoch."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        _write(self.network, buffer.getvalue())
        outcome = Outcome(hashlib.sha256(buffer.getvalue()).hexdigest(), accuracy, robust, seconds)
        versions = {
            "recurjac": __version__, "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(),
        }  # fmt: skip
        text = json.dumps({**made, **asdict(outcome), "versions": versions}, indent=2, allow_nan=False)
        _write(self.record, (text + "\n").encode())
        self.unfinished.unlink(missing_ok=True)
        return outcome

    def _same(self, file: Path, made: Description, wanted: Description) -> None:
        """Raise InvalidRequest unless `file` was made by the requested recipe and from the requested data."""
        if made["data"]["sha256"] != wanted["data"]["sha256"]:
            raise InvalidRequest(
                f"{file} was trained on other data ({_one_line(made['data']['name'])}, not {wanted['data']['name']}); "
                "choose another folder, or remove it"
            )
        old, new = made["recipe"], wanted["recipe"]
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if changed:
            was = ", ".join(f"{key} {old.get(key)}, not {new.get(key)}" for key in changed)
            raise InvalidRequest(f"{file} was trained with {_one_line(was)}; choose another folder, or remove it")


def _one_line(content: Any) -> str:
    """What a file that we did not write contains, for a message."""
    return " ".join(str(content).split())


def _described(found: Any) -> Description:
    """How a network was made.  Raises KeyError or TypeError for anything else."""
    recipe, data = found["recipe"], found["data"]
    return {"recipe": {**recipe}, "data": {**data, "name": data["name"], "sha256": data["sha256"]}}


def _write(path: Path, content: bytes) -> None:
    """Write a file to disk under another name, then rename it atomically."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
