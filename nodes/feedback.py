"""What a node shows of its work: progress, a line of text, pictures."""

from __future__ import annotations

import logging

import comfy.utils
from comfy_api.latest import io
from server import PromptServer

log = logging.getLogger(__name__)


def show(node: type[io.ComfyNode], text: str, warn: bool = False) -> None:
    """Write ``text`` on the node; a warning goes to the log as well."""
    if warn:
        log.warning("%s: %s", node.__name__, text)
    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None and node.hidden.unique_id:
        server.send_progress_text(text, node.hidden.unique_id)


class Progress:
    """A progress bar that takes (done, total), as the cores report it."""

    def __init__(self) -> None:
        self.bar: comfy.utils.ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None or self.bar.total != total:
            self.bar = comfy.utils.ProgressBar(total)
        self.bar.update_absolute(done, total)
