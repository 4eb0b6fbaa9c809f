"""The result folder: files appear in it complete or not at all, whatever ends the program."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .plan import Cell, Job, file_name

UNFINISHED = ".unfinished-"


class Folder:
    """Where a sweep keeps identities, pictures and measurements, under names made of their keys."""

    def __init__(self, path: Path):
        self.path = path
        for name in ("identities", "pictures", "measured"):
            (path / name).mkdir(parents=True, exist_ok=True)
            for left in (path / name).glob(f"{UNFINISHED}*"):  # of a run that was killed
                left.unlink()

    def identity(self, job: Job) -> Path:
        """Return the place of an identity's file."""
        return self.path / "identities" / f"{file_name(job)}.safetensors"

    def picture(self, job: Job) -> Path:
        """Return the place of a picture."""
        return self.path / "pictures" / f"{file_name(job)}.png"

    def measured(self, cell: Cell) -> Path:
        """Return the place of a measurement."""
        return self.path / "measured" / f"{cell.key}.json"

    def numbers(self, cell: Cell) -> dict[str, Any]:
        """Return what was measured of a cell."""
        return json.loads(self.measured(cell).read_text("utf-8"))


def write(path: Path, data: bytes | str) -> None:
    """Write a file in one step: it is there whole, also after a power cut, or it is not there."""
    data = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
