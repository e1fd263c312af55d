"""`make dist`: the sdist and the wheel, built twice and compared byte by byte, and checked by twine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def built(folder: Path) -> dict[str, str]:
    """Build into `folder`; the SHA-256 of every file by its name."""
    when = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    env = {**os.environ, "SOURCE_DATE_EPOCH": when.stdout.strip()}
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)],  # noqa: S603
                   env=env, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def main() -> int:
    """Build, compare, check, and put the files into `dist/`."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        first, second = built(Path(one)), built(Path(two))
        if first != second:
            print(f"two builds differ: {sorted(set(first.items()) ^ set(second.items()))}")
            return 1
        files = [str(p) for p in sorted(Path(one).iterdir())]
        if subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=False).returncode:  # noqa: S603
            return 1
        (ROOT / "dist").mkdir(exist_ok=True)
        for file in files:
            shutil.copy2(file, ROOT / "dist")
    for name, digest in first.items():
        print(f"{digest}  dist/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
