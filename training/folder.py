"""A run's folder belongs to one run at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = "run.lock"


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the system lets go of it however the process ends.

    Raises RuntimeError if another run has it, or if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise RuntimeError(
            f"The run's folder {folder} cannot be written: {error.strerror or error}. Make it "
            "writable, or name another in [run] folder."
        ) from error
    with file:
        try:
            lock(file)
        except OSError as error:
            raise RuntimeError(
                f"Another run is writing to {folder}. Wait for it, end it, or name another folder "
                "in [run] folder."
            ) from error
        yield


def lock(file: IO) -> None:
    """Lock a file, or raise OSError where another process has it."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
