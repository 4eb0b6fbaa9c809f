"""The server of a sweep: somebody else's, or one of its own, also one that a killed sweep left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .folder import write

NOTE = "server.json"  # in the result folder, while a server of its own runs
LEAVING = 10.0  # seconds for a server to end by itself


@contextlib.contextmanager
def own_server(folder: Path, start: Callable[[], Any]) -> Iterator[str]:
    """Yield the address of a server of the sweep's own, and end that server afterwards.

    start: returns a ``Server`` to enter. A server that a killed sweep left is used again: it holds
    the models, and two would not fit.
    """
    note = folder / NOTE
    known = left_behind(note)
    if known is not None:
        try:
            yield known["url"]
        finally:
            end(known)
            note.unlink(missing_ok=True)
        return
    with start() as server:
        told = {"url": server.url, "pid": server.process.pid, "base": str(server.base)}
        write(note, json.dumps(told))
        try:
            yield server.url
        finally:
            note.unlink(missing_ok=True)


def left_behind(note: Path) -> dict[str, Any] | None:
    """Return the server that the note tells of, if that very one still answers."""
    try:
        known = json.loads(note.read_text("utf-8"))
        arguments = asked(known["url"])["system"]["argv"]
    except (OSError, ValueError, KeyError):
        return None
    return known if known["base"] in arguments else None  # another server may have its port


def asked(url: str) -> dict[str, Any]:
    """Return what a ComfyUI says about itself; OSError if there is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/system_stats", timeout=5) as answer:
        return json.load(answer)


def end(known: dict[str, Any]) -> None:
    """End a server that was left behind, by its process id, and remove its folder."""
    deadline = time.monotonic() + LEAVING
    with contextlib.suppress(OSError):  # it does not answer any more, or is gone
        os.kill(known["pid"], signal.SIGTERM)
        while asked(known["url"]):
            if time.monotonic() > deadline:
                os.kill(known["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))
                break
            time.sleep(0.1)
    base = Path(known["base"])
    for pack in (base / "custom_nodes").glob("*"):
        if pack.is_symlink():
            pack.unlink()  # itself, so that no clean-up follows it
    shutil.rmtree(base, ignore_errors=True)
