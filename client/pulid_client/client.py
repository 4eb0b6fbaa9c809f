"""One ComfyUI server: from a workflow's name and a photo to a picture."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import workflows
from .errors import NodeFailed, PromptRefused, ServerError
from .identities import KINDS, LOAD, take_out
from .results import Picture, Progress
from .runs import LIMIT, OnEvent, Runs
from .uploads import IDENTITIES, form, hashed_name, saved_identity
from .workflows import Prompt

Photo = str | os.PathLike | bytes
NO_FILE = " Is PuLID-Flux Native at {} older than 0.2? It does not hand out the files it saves."


class Client(Runs):
    """A client for the ComfyUI at ``url``, as an asynchronous context manager."""

    def __init__(self, url: str, **options: Any):
        """Describe the server; options are those of ``Runs``."""
        super().__init__(url, **options)
        self.shipped: dict[str, Prompt] = {}

    async def render(
        self,
        workflow: str | os.PathLike | Mapping[str, Any],
        *,
        photo: Photo | None = None,
        identity: Photo | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        weight: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        width: int | None = None,
        height: int | None = None,
        settings: Mapping[str, Any] | None = None,
        output: str = workflows.SAVE,
        progress: Callable[[Progress], None] | None = None,
        limit: float = LIMIT,
    ) -> Picture:
        """Run a workflow with these settings and return the first picture it saves.

        workflow: a name of the pack's, as in ``workflows/api``, the path of a file in API form, or
        such a prompt; photo: a file's path or bytes; identity: the name of one that the server
        has, the path of a file, or its bytes; settings: ``{"title.input": value}`` for all else,
        where a Path stands for a file to upload; output: the title of the node whose picture it
        is. What is None stays as it is in the workflow. Raises PromptRefused, NodeFailed,
        TimeoutError after ``limit`` seconds, ServerGone, ValueError for a title that is not there.
        """
        named = {"prompt": prompt, "negative": negative, "weight": weight, "seed": seed}
        named |= {"steps": steps, "width": width, "height": height, "identity": identity}
        made = await self.prompt(workflow, settings, photo=photo, **named)
        node = workflows.node_titled(made, output)
        told = None if progress is None else teller(made, progress)
        result = await self.run(made, told, limit)
        if result.error is not None:
            raise NodeFailed(result.error)
        if not result.images(node):
            reasons = "".join(f"\n{line}" for line in result.refused)
            raise PromptRefused(f"{output!r} made no picture.{reasons}")
        picture = result.images(node)[0]
        return Picture(await self.view(picture), picture["filename"], result)

    async def prompt(
        self,
        workflow: str | os.PathLike | Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        photo: Photo | None = None,
        **named: Any,
    ) -> Prompt:
        """Return what ``render`` would queue, its files uploaded; named: what that has names for.

        Raises ValueError for a title that is not there.
        """
        prompt = await self.workflow(workflow)
        named["photo"] = photo if photo is None or isinstance(photo, bytes) else Path(photo)
        wanted = {**workflows.places(prompt, named), **(settings or {})}
        for where, value in wanted.items():
            if isinstance(value, (bytes, os.PathLike)):
                node = prompt[workflows.node_titled(prompt, where.rpartition(".")[0])]
                send = self.ship if node["class_type"] == LOAD else self.upload
                wanted[where] = await send(value)
        workflows.set_inputs(prompt, wanted)
        return prompt

    async def workflow(self, workflow: str | os.PathLike | Mapping[str, Any]) -> Prompt:
        """Return a prompt of one's own to change: the server's of that name, a file's, a copy."""
        if isinstance(workflow, Mapping):
            return workflows.copied(workflow)
        if isinstance(workflow, os.PathLike) or str(workflow).endswith(".json"):
            return json.loads(Path(workflow).read_text("utf-8"))
        if workflow not in self.shipped:
            self.shipped[workflow] = await self.fetch_workflow(workflow)
        return workflows.copied(self.shipped[workflow])

    async def fetch_workflow(self, name: str) -> Prompt:
        """Return the pack's workflow of that name from the server, where ComfyUI serves it."""
        packs = await self.http.get("/workflow_templates")
        names = {each for templates in packs.values() for each in templates}
        for pack in (pack for pack, templates in packs.items() if name in templates):
            path = f"/api/workflow_templates/{quote(pack)}/api/{quote(name)}.json"
            with contextlib.suppress(ServerError):  # another pack's, without an API form
                return await self.http.get(path)
        raise ValueError(
            f"{self.url} has no workflow {name!r} in API form. Is PuLID-Flux Native installed "
            f"there?{workflows.similar(name, dict.fromkeys(sorted(names)))}"
        )

    async def take_out(self, prompt: Prompt) -> tuple[Prompt, dict[str, Prompt]]:
        """Return a prompt that loads its identities, and the prompts that encode these, by name.

        What the first one loads are the files NAME.safetensors; see ``encode`` and ``ship``.
        """
        return take_out(prompt, await self.identity_inputs())

    async def identity_inputs(self) -> dict[str, set[str]]:
        """Return the names of the inputs of the server's nodes that ``take_out`` writes."""
        known = {}
        for kind in KINDS:
            described = (await self.object_info(kind))[kind]["input"]
            parts = (described.get(section, ()) for section in ("required", "optional"))
            known[kind] = {name for part in parts for name in part}
        return known

    async def encode(self, prompt: Mapping[str, Any], limit: float = LIMIT) -> bytes:
        """Run a prompt that saves one identity; return its file. Raises as ``render`` does."""
        result = await self.run(prompt, limit=limit)
        if result.error is not None:
            raise NodeFailed(result.error)
        file = next(filter(None, map(saved_identity, result.outputs.values())), None)
        if file is None:
            raise PromptRefused(f"No identity came back.{NO_FILE.format(self.url)}")
        return await self.view(file)

    async def ship(self, identity: Photo, name: str | None = None) -> str:
        """Put an identity's file where the server's Load PuLID Identity finds it; return its name.

        Without a name, that is made from the content.
        """
        return await self.upload(identity, name, IDENTITIES)

    async def object_info(self, kind: str = "") -> dict[str, dict]:
        """Return the description of every node class, or of one."""
        return await self.http.get(f"/object_info/{quote(kind)}" if kind else "/object_info")

    async def upload(self, photo: Photo, name: str | None = None, subfolder: str = "") -> str:
        """Put a file into the server's input folder; return the name for a node.

        Without a name, that is made from the content, so the same photo is there once.
        """
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        name = name or hashed_name(photo, data)
        send = form(data, name, subfolder)
        answer = await self.http.patiently(
            lambda: self.http.once("POST", "/upload/image", data=send())
        )
        return json.loads(answer)["name"]

    async def view(self, picture: Mapping[str, str]) -> bytes:
        """Return a file that a ``Result`` lists."""
        return await self.http.get_bytes("/view", picture)


def teller(prompt: Prompt, progress: Callable[[Progress], None]) -> OnEvent:
    """Return a function that turns the server's messages into Progress."""
    title = {node: title for title, nodes in workflows.titles(prompt).items() for node in nodes}

    def tell(kind: str, data: dict) -> None:
        node = data.get("display_node") or data.get("node")
        if kind == "executing" and node in title:
            progress(Progress(title[node]))
        elif kind == "progress" and node in title:
            progress(Progress(title[node], data["value"], data["max"]))

    return tell
