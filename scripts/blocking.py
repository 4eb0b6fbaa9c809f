"""The client for scripts and tests without an event loop of their own: every call waits."""

from __future__ import annotations

import asyncio
import json
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hosting  # noqa: F401  it puts the client on the path
from pulid_client import Client, OnEvent, Result


class Blocking:
    """What scripts and tests ask of the ComfyUI at ``url``."""

    def __init__(self, url: str):
        self.url = url
        self.client_id = uuid.uuid4().hex

    def call(self, use: Callable[[Client], Awaitable[Any]]) -> Any:
        """Return what ``use`` does with a client; it works in any thread and in callbacks."""

        async def once() -> Any:
            async with Client(self.url, client_id=self.client_id, patience=0.0) as client:
                return await use(client)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(once())
        with ThreadPoolExecutor(1) as other:  # a callback within a run: that loop is busy with us
            return other.submit(asyncio.run, once()).result()

    def open(self, path: str, body: bytes | None = None, kind: str = "application/json"):
        """Send a bare request past any proxy and return the response; OSError if there is none."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=60)

    def get(self, path: str) -> dict:
        """Return the JSON at ``path``."""
        with self.open(path) as answer:
            return json.load(answer)

    def object_info(self) -> dict[str, dict]:
        """Return the description of every node class."""
        return self.call(lambda client: client.object_info())

    def upload(self, photo: Path, name: str | None = None) -> str:
        """Put ``photo`` into the server's input folder; return the name for ``LoadImage``."""
        return self.call(lambda client: client.upload(photo, name or photo.name))

    def image(self, picture: Mapping[str, str]) -> bytes:
        """Return the file of a picture that a ``Result`` lists."""
        return self.call(lambda client: client.view(picture))

    def interrupt(self) -> None:
        """Stop whatever runs."""
        self.open("/interrupt", b"{}").close()

    def submit(self, prompt: Mapping[str, dict]) -> str:
        """Queue ``prompt`` and return its id."""
        return self.call(lambda client: client.queue(prompt))

    def queue(
        self, prompt: Mapping[str, dict], on_event: OnEvent | None = None, limit: float = 600.0
    ) -> Result:
        """Run ``prompt`` (API form) and return how it went.

        on_event gets the type and data of each of the server's messages about it. Raises
        PromptRefused if it fails validation, OSError if the server dies, TimeoutError after
        ``limit`` seconds.
        """
        return self.call(lambda client: client.run(prompt, on_event, limit))
