"""Files for the server: their names there, and the form they are sent in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import aiohttp

IDENTITIES = "pulid_identities"  # where Load PuLID Identity looks in the input folder
SIGNATURES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def hashed_name(file: str | os.PathLike | bytes, data: bytes) -> str:
    """Return a name made from a file's content; bytes get the suffix of what they are."""
    if isinstance(file, bytes):
        known = (suffix for start, suffix in SIGNATURES.items() if data.startswith(start))
        suffix = next(known, ".safetensors" if data[8:9] == b"{" else ".png")
    else:
        suffix = Path(file).suffix.lower()
    return f"{hashlib.sha256(data).hexdigest()[:24]}{suffix}"


def form(data: bytes, name: str, subfolder: str) -> Callable[[], aiohttp.FormData]:
    """Return a maker of the upload's form; each can be sent once."""

    def make() -> aiohttp.FormData:
        made = aiohttp.FormData()
        made.add_field("image", data, filename=name, content_type="application/octet-stream")
        made.add_field("type", "input")
        made.add_field("subfolder", subfolder)
        made.add_field("overwrite", "true")  # else the server gives it another name
        return made

    return make


def saved_identity(shown: dict) -> dict | None:
    """Return where ``Client.view`` finds the identity that a node saved, or None."""
    files = shown.get("pulid_identity") or [None]
    return files[0]
