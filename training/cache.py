"""What is made of every picture once, on the disk: latent, face crop, face vector, text.

    CACHE/settings.json            what it was made with
    CACHE/journal.jsonl            a line a picture: what became of it; the last line counts
    CACHE/pictures/ab/KEY.safetensors   latent, crop, vector
    CACHE/texts/ab/KEY.safetensors      what the text encoder made of a caption
    CACHE/thumbs/KEY.jpg           pictures that were thrown out, small

A file appears in one rename, and its line in the journal after it: a run that is cut off loses at
most the picture it was at.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

JOURNAL, SETTINGS = "journal.jsonl", "settings.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a picture: kept under ``key``, or thrown out for a ``reason``."""

    name: str
    stamp: str
    key: str = ""
    reason: str = ""
    caption: str = ""
    person: str = ""

    @property
    def kept(self) -> bool:
        return not self.reason


def digest(data: bytes | str) -> str:
    """Return a name for these bytes or this text."""
    data = data.encode() if isinstance(data, str) else data
    return hashlib.sha256(data).hexdigest()[:32]


class Cache:
    """A folder of prepared pictures. Every write is whole, or a RuntimeError that says why not."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.outcomes: dict[str, Outcome] = {}

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder or go on with it, after a try whether it can be written.

        Raises ValueError if it was made with other ``settings``, RuntimeError if it is read-only.
        """
        settings = json.loads(json.dumps(settings))
        path = self.folder / SETTINGS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".try-")
            os.close(handle)
            os.unlink(name)
        except OSError as error:
            raise self.cannot(error) from error
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            other = [k for k in {**settings, **found} if settings.get(k) != found.get(k)]
            if other:
                name = other[0]
                raise ValueError(
                    f"The cache {self.folder} was made with {name} = {found.get(name)}, the "
                    f"settings say {settings.get(name)}. Name another cache, or delete this one."
                )
        else:
            self.write(path, json.dumps(settings, indent=1).encode())
        self.read_journal()

    def read_journal(self) -> None:
        """Read what became of every picture so far; half a line at the end is as if not there."""
        self.outcomes = {}
        path = self.folder / JOURNAL
        if not path.is_file():
            return
        *lines, rest = path.read_bytes().split(b"\n")
        if rest:  # the process ended in the middle of it
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(rest))
        for line in lines:
            outcome = Outcome(**json.loads(line))
            self.outcomes[outcome.name] = outcome

    def note(self, outcome: Outcome) -> None:
        """Add a line to the journal."""
        line = json.dumps(asdict(outcome), ensure_ascii=False).encode() + b"\n"
        path = self.folder / JOURNAL
        before = path.stat().st_size if path.is_file() else 0
        try:
            with path.open("ab") as file:
                file.write(line)
        except OSError as error:
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.truncate(before)
            raise self.cannot(error) from error
        self.outcomes[outcome.name] = outcome

    def path(self, kind: str, key: str) -> Path:
        """Return the file of ``key``; kind is pictures, texts or thumbs."""
        if kind == "thumbs":
            return self.folder / kind / f"{key}.jpg"
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        """Return whether ``key`` is there."""
        return self.path(kind, key).is_file()

    def put(self, kind: str, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under ``key``."""
        self.write(self.path(kind, key), save({k: v.contiguous() for k, v in tensors.items()}))

    def get(self, kind: str, key: str) -> dict[str, Tensor]:
        """Return the tensors of ``key``, on the CPU."""
        return load_file(self.path(kind, key))

    def write(self, path: Path, content: bytes) -> None:
        """Write a file whole, or raise RuntimeError with the reason and leave nothing behind."""
        name = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".saving-")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except OSError as error:
            if name:
                with contextlib.suppress(OSError):
                    os.unlink(name)
            raise self.cannot(error) from error

    def cannot(self, error: OSError) -> RuntimeError:
        """Return the error for a folder that cannot be written."""
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        reason = "the disk is full" if full else error.strerror or str(error)
        cure = "Make room there" if full else "Make the folder writable, or name another cache"
        return RuntimeError(
            f"The cache {self.folder} cannot be written: {reason}. {cure} and start again; what "
            "was prepared so far is kept."
        )

    def text_key(self, caption: str) -> str:
        """Return the key of a caption."""
        return digest(caption)

    def kept(self) -> list[Outcome]:
        """Return the pictures to train on whose files are there, in the order of their names."""
        found = (one for one in self.outcomes.values() if one.kept)
        return sorted((o for o in found if self.has("pictures", o.key)), key=lambda o: o.name)


def as_bytes(content: bytes) -> Tensor:
    """Return bytes as a tensor of uint8."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
