"""The work of a sweep on a server: encode each photo once, render each picture, measure it.

Pictures are rendered before any is measured: ComfyUI keeps the models of one prompt for the next,
and would load FLUX anew after every measurement.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulid_client import Client, NodeFailed, PromptLost, PromptRefused

from .folder import Folder, write
from .graphs import Prompt
from .plan import Cell, Job, Wish, measuring

SUBFOLDER = "pulid_sweep"  # of the server's input folder
RESTARTS = 3  # how often a prompt is queued again that a restarted server has forgotten

Tell = Callable[[str], None]  # what was done: encode, render, measure


@dataclass(frozen=True)
class Left:
    """What is still to be done."""

    identities: list[Job]
    pictures: list[tuple[Job, Job | None]]  # a picture and its identity
    cells: list[Cell]

    def __len__(self) -> int:
        return len(self.identities) + len(self.pictures) + len(self.cells)


def left(cells: Sequence[Cell], folder: Folder | None) -> Left:
    """Return what is not in the folder yet, each thing once; without a folder, all of it."""

    def lacks(place: Callable[[Folder, Any], Path], thing: Any) -> bool:
        return folder is None or not place(folder, thing).exists()

    identities: dict[Job, None] = {}  # a dict keeps the order and each once
    pictures: dict[Job, Job | None] = {}
    for one in cells:
        if one.identity is not None and lacks(Folder.identity, one.identity):
            identities[one.identity] = None
        for job, identity in ((one.plain, None), (one.picture, one.identity)):
            if lacks(Folder.picture, job):
                pictures[job] = identity
    missing = [one for one in cells if lacks(Folder.measured, one)]
    return Left(list(identities), list(pictures.items()), missing)


class Worker:
    """Does the work of one sweep with a client."""

    def __init__(self, comfy: Client, wish: Wish, folder: Folder, limit: float):
        """limit: seconds for one prompt."""
        self.comfy = comfy
        self.wish = wish
        self.folder = folder
        self.limit = limit
        self.names: dict[Path, str] = {}  # of files that the server has

    async def do(self, work: Left, tell: Tell) -> None:
        """Do all that is left; raises as the client does, and what is done by then stays done."""
        for job in work.identities:
            write(self.folder.identity(job), await self.encoded(job))
            tell("encode")
        for job, identity in work.pictures:
            write(self.folder.picture(job), await self.rendered(job, identity))
            tell("render")
        for cell in work.cells:
            table = await self.measured(cell)
            write(self.folder.measured(cell), json.dumps(table, indent=1))
            tell("measure")

    async def run(self, prompt: Prompt):
        """Run a prompt and return its result; again if the server was restarted meanwhile."""
        for attempt in range(RESTARTS):
            try:
                result = await self.comfy.run(prompt, limit=self.limit)
            except PromptLost:
                if attempt == RESTARTS - 1:
                    raise
                self.names.clear()  # it may have lost its input folder too
                continue
            if result.error is not None:
                raise NodeFailed(result.error)
            return result
        raise AssertionError("the last attempt returns or raises")

    async def upload(self, path: Path) -> str:
        """Put a picture on the server once; return its name for Load Image."""
        if path not in self.names:
            name = await self.comfy.upload(path, subfolder=SUBFOLDER)
            self.names[path] = f"{SUBFOLDER}/{name}"
        return self.names[path]

    async def place(self, identity: Job) -> str:
        """Put an identity on the server once; return its name for Load PuLID Identity."""
        path = self.folder.identity(identity)
        if path not in self.names:
            self.names[path] = await self.comfy.ship(path)
        return self.names[path]

    async def prompt_of(self, job: Job) -> Prompt:
        """Return a job's prompt with the photo that the server has."""
        prompt = copy.deepcopy(job.prompt)
        for entry in prompt.values():
            if job.photo is not None and entry["inputs"].get("image") == job.mark:
                entry["inputs"]["image"] = await self.upload(job.photo)
        return prompt

    async def encoded(self, job: Job) -> bytes:
        """Return the identity of a photo, as a file."""
        prompt = await self.prompt_of(job)
        prompt[job.output]["inputs"]["name"] = f"sweep-{job.key}"
        return await self.comfy.encode(prompt, self.limit)

    async def rendered(self, job: Job, identity: Job | None) -> bytes:
        """Return the picture of a job."""
        prompt = await self.prompt_of(job)
        if identity is not None:
            prompt["identity"]["inputs"]["name"] = await self.place(identity)
        result = await self.run(prompt)
        images = result.images(job.output)
        if not images:
            raise PromptRefused("\n".join(result.refused) or "The workflow made no picture.")
        return await self.comfy.view(images[0])

    async def measured(self, cell: Cell) -> dict:
        """Return the tables of a cell, without and with identity compared."""
        picture = await self.upload(self.folder.picture(cell.picture))
        plain = await self.upload(self.folder.picture(cell.plain))
        photo = await self.upload(cell.photo) if cell.photo else None
        identity = await self.place(cell.identity) if cell.identity else None
        result = await self.run(measuring(self.wish, cell, picture, plain, photo, identity))
        shown = {name: result.outputs.get(name, {}) for name in ("alike", "disturbed")}
        if not all("pulid_measured" in one for one in shown.values()):
            raise PromptRefused("\n".join(result.refused) or "The server measured nothing.")
        tables = {name: one["pulid_measured"][0] for name, one in shown.items()}
        notes = [note["text"] for note in shown["alike"].get("pulid_notes", [])]
        return {**tables, "notes": notes}
