"""One ComfyUI server: from a workflow's name and a photo to a picture."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import workflows
from .errors import NodeFailed, PromptRefused, ServerError
from .results import Picture, Progress
from .runs import LIMIT, OnEvent, Runs
from .uploads import IDENTITIES, form, hashed_name, saved_identity
from .workflows import Prompt

Photo = str | os.PathLike | bytes


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
        named |= {"steps": steps, "width": width, "height": height}
        named["photo"] = photo if photo is None or isinstance(photo, bytes) else Path(photo)
        named["identity"] = identity
        made = await self.prompt(workflow, named, settings or {})
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
        named: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Prompt:
        """Return a workflow with values for ``render``'s names and for titles; upload files."""
        prompt = await self.workflow(workflow)
        wanted = {**workflows.places(prompt, named), **settings}
        for where, value in wanted.items():
            if isinstance(value, (bytes, os.PathLike)):
                node = prompt[workflows.node_titled(prompt, where.rpartition(".")[0])]
                wanted[where] = await self.place(value, node["class_type"])
        workflows.set_inputs(prompt, wanted)
        return prompt

    async def workflow(self, workflow: str | os.PathLike | Mapping[str, Any]) -> Prompt:
        """Return a prompt of one's own to change: the server's of that name, a file's, a copy."""
        if isinstance(workflow, Mapping):
            return copy.deepcopy(dict(workflow))
        if isinstance(workflow, os.PathLike) or str(workflow).endswith(".json"):
            return json.loads(Path(workflow).read_text("utf-8"))
        if workflow not in self.shipped:
            self.shipped[workflow] = await self.fetch_workflow(workflow)
        return copy.deepcopy(self.shipped[workflow])

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

    async def encode(self, prompt: Mapping[str, Any], limit: float = LIMIT) -> dict[str, bytes]:
        """Run a prompt that saves identities; return their files' bytes by node id.

        Raises as ``render`` does.
        """
        result = await self.run(prompt, limit=limit)
        if result.error is not None:
            raise NodeFailed(result.error)
        files = {node: saved_identity(shown) for node, shown in result.outputs.items()}
        return {node: await self.view(file) for node, file in files.items() if file is not None}

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

    async def place(self, file: Photo, kind: str) -> str:
        """Upload a file for a node of class ``kind``; return its name there."""
        folder = IDENTITIES if kind == "PuLIDFluxLoadIdentity" else ""
        return await self.upload(file, subfolder=folder)

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
