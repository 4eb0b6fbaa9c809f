"""The result folder: files appear in it complete or not at all, whatever ends the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pulid_client.files import UNFINISHED, write_whole

from .plan import Cell, Job, file_name


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
    """Write a file in one step."""
    write_whole(path, data.encode() if isinstance(data, str) else data)
