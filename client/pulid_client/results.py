"""What came of a prompt."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

END = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class Result:
    """How one queued prompt went.

    outputs: node id -> what the node showed, as in ``/history``; executed: ids of the nodes that
    ran, in order, nodes of expanded graphs included, as far as the websocket was connected; cached:
    ids of the prompt's nodes that did not have to; error: the server's report (``node_id``,
    ``node_type``, ``exception_message``, …) if the run failed or was interrupted; span: when the
    run began and ended, in seconds of the server's clock; refused: the server's words about
    outputs that it left out while it ran the others.
    """

    prompt_id: str
    outputs: dict[str, dict]
    executed: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    error: dict | None = None
    span: tuple[float, float] | None = None
    refused: tuple[str, ...] = ()

    def images(self, node: str) -> list[dict]:
        """Return the pictures that ``node`` saved or previewed, for ``Client.view``."""
        return self.outputs.get(node, {}).get("images", [])

    @property
    def notes(self) -> list[str]:
        """Return what the pack's nodes had to say about the run."""
        return [note["text"] for shown in self.outputs.values() for note in notes_of(shown)]


@dataclass(frozen=True)
class Picture:
    """A picture that a workflow saved: the file's bytes, its name on the server, and the run."""

    data: bytes = field(repr=False)
    name: str
    result: Result = field(repr=False)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the file and return its path."""
        path = Path(path)
        path.write_bytes(self.data)
        return path


@dataclass(frozen=True)
class Progress:
    """A node begins (step 0 of 0) or has made a step: the node's title and where it is."""

    title: str
    step: int = 0
    steps: int = 0


class Run:
    """What the websocket has told about one prompt so far."""

    def __init__(self) -> None:
        self.executed: dict[str, None] = {}  # a dict keeps the order and each id once

    def take(self, kind: str, data: dict) -> bool:
        """Note one message; return whether it was the last one."""
        if kind == "executing" and data.get("node") is not None:
            self.executed[data["node"]] = None
        return kind == "executing" and data.get("node") is None

    def result(self, prompt_id: str, entry: dict, refused: tuple[str, ...]) -> Result:
        """Return what was noted, and the rest from the prompt's entry in the history."""
        status = entry.get("status") or {}
        messages = dict(status.get("messages") or [])
        error = messages.get("execution_error") or messages.get("execution_interrupted")
        if error is not None:
            error = {"exception_message": "interrupted"} | error
        elif status.get("status_str") == "error":
            error = {"node_type": None, "exception_message": "the run failed, with no report"}
        times = [messages.get(kind, {}).get("timestamp") for kind in ("execution_start", *END)]
        times = [time / 1000 for time in times if time is not None]
        return Result(
            prompt_id,
            entry.get("outputs", {}),
            tuple(self.executed),
            tuple(messages.get("execution_cached", {}).get("nodes", ())),
            error,
            (times[0], times[-1]) if len(times) > 1 else None,
            refused,
        )


def notes_of(shown: dict) -> list[dict]:
    """Return the pack's notes in what a node showed."""
    return [note for note in shown.get("pulid_notes") or [] if "text" in note]
