"""What a node shows of its work: progress and notes.

Notes go to the client whose prompt runs, as ComfyUI's progress texts, and into the node's output,
where the history and every later client find them.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

import comfy.utils
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

log = logging.getLogger(__name__)
FACES = "pulid_flux.faces"  # the event that js/face_picker.js listens for


@dataclass(frozen=True)
class Note:
    """A line about a run; a warning goes to the log as well."""

    text: str
    warning: bool = False


def show(node: type[io.ComfyNode], notes: list[Note]) -> dict[str, list[dict]]:
    """Send ``notes`` to the client whose prompt runs; return them as part of the node's output.

    The key is there without notes as well: ComfyUI joins the outputs of a node that runs over a
    list by the keys of the first.
    """
    for note in notes:
        if note.warning:
            log.warning("%s: %s", node.__name__, note.text)
    if notes and node.hidden is not None:
        send_text(node.hidden.unique_id, "\n".join(note.text for note in notes))
    return {"pulid_notes": [asdict(note) for note in notes]}


def send_text(node_id: str | None, text: str) -> None:
    """Write ``text`` on the node in the page whose prompt runs, and nowhere else."""
    server, client = page()
    if client and node_id:
        server.send_progress_text(text, node_id, client)


def send_faces(node: type[io.ComfyNode], faces: list[dict]) -> None:
    """Show photos on a node that is about to fail: ComfyUI takes no output from one that raises."""
    server, client = page()
    if client and node.hidden is not None:
        server.send_sync(FACES, {"node": node.hidden.unique_id, "faces": faces}, client)


def page() -> tuple[PromptServer | None, str | None]:
    """Return the server and the client whose prompt runs, None if that is not a page.

    A client without feature flags is not one: it would take a text for an image. Without a client
    ComfyUI would send to everybody.
    """
    server = getattr(PromptServer, "instance", None)
    client = getattr(server, "client_id", None)
    known = client and server.sockets_metadata.get(client, {}).get("feature_flags")
    return server, client if known else None


class RunReport:
    """What a node shows, after a later sampler's run, of how its identity acted.

    ComfyUI has the node's output by then, and shares it between the histories of all prompts that
    find the node unchanged. A warning is put into it with the prompt it belongs to.
    """

    KEPT = 50  # warnings: a service may use one cached node for ever

    def __init__(self, node: type[io.ComfyNode]) -> None:
        self.node_id = node.hidden.unique_id if node.hidden is not None else None
        # one key whose value is exchanged: the server may be reading it in another thread
        self.warnings: dict[str, list[dict[str, str]]] = {"runs": []}

    @property
    def output(self) -> dict[str, list[dict]]:
        """Return the part of the node's output that the history takes warnings from."""
        return {"pulid_run_warnings": [self.warnings]}

    def __call__(self, acted: int, steps: int, in_tiles: bool) -> None:
        text = f"Acted in {acted} of {steps} steps."
        if not acted:
            text = "Did not act: no step between start and end has a weight."
        if in_tiles:
            text += " Its mask or region covers each tile of another node, not the picture."
        send_text(self.node_id, text)
        running = get_executing_context()
        if running and (in_tiles or not acted):
            warning = {"prompt_id": running.prompt_id, "text": text}
            self.warnings["runs"] = [*self.warnings["runs"], warning][-self.KEPT :]


class Progress:
    """A progress bar that takes (done, total), as the cores report it."""

    def __init__(self) -> None:
        self.bar: comfy.utils.ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None or self.bar.total != total:
            self.bar = comfy.utils.ProgressBar(total)
        self.bar.update_absolute(done, total)
