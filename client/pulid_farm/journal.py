"""``results.jsonl``: one line for each job that has ended, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = "results.jsonl"
SYNC = 1.0  # seconds of work that a power cut may cost; a killed driver loses nothing


class Journal:
    """A file that lines are only ever added to; used by one driver at a time."""

    def __init__(self, path: Path, keep: Callable[[dict], bool] = lambda line: True):
        """Open ``path``, without its torn last line and lines that are not to be kept.

        Raises RuntimeError if another driver has it open.
        """
        self.path = path
        self.keys: set[str] = set()
        self.failed = 0  # lines that are errors
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = lock(path)
        try:
            self.repair(keep)
            self.handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except BaseException:
            self.lock.close()
            raise
        self.synced = time.monotonic()

    def repair(self, keep: Callable[[dict], bool]) -> None:
        """Read what is there; write it anew, in one step, if some of it is to go."""
        content = self.path.read_bytes() if self.path.exists() else b""
        kept = []
        for raw in content.splitlines(keepends=True):
            line = parsed(raw)
            if line is not None and line["key"] not in self.keys and keep(line):
                self.note(line)
                kept.append(raw)
        whole = b"".join(kept)
        if whole != content:
            scratch = self.path.with_name(f".{self.path.name}.writing")
            with scratch.open("wb") as file:
                file.write(whole)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self.path)

    def note(self, line: dict) -> None:
        """Know from now on that a job has ended."""
        self.keys.add(line["key"])
        self.failed += not line["ok"]

    def add(self, line: dict) -> None:
        """Add a job's line, in one write; RuntimeError if the job has one already."""
        if line["key"] in self.keys:
            raise RuntimeError(f"The job {line['key']} has ended twice.")
        self.note(line)
        whole = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        written = os.write(self.handle, whole)
        if written != len(whole):
            raise OSError(f"{self.path} took {written} of {len(whole)} bytes: is the disk full?")
        if time.monotonic() - self.synced > SYNC:
            self.sync()

    def sync(self) -> None:
        """See to it that what was added outlives a power cut."""
        os.fsync(self.handle)
        self.synced = time.monotonic()

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        os.close(self.handle)
        self.lock.close()


def parsed(raw: bytes) -> dict | None:
    """Return a line's content, or None of one that was cut off."""
    with contextlib.suppress(ValueError):
        line = json.loads(raw)
        if raw.endswith(b"\n") and isinstance(line, dict) and {"key", "ok"} <= line.keys():
            return line
    return None


def lock(path: Path):
    """Hold ``path`` for this process until the returned file is closed, where the system can."""
    file = path.with_name(f".{path.name}.lock").open("a")
    try:
        import fcntl
    except ImportError:  # Windows: whoever starts two drivers there is on their own
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RuntimeError(
            f"Another driver is writing {path}: wait for its end, or end it, or take another "
            "target."
        ) from error
    return file
