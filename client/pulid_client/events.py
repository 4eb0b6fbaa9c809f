"""The server's websocket, kept open; every message goes to the run that it is about."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from .errors import ServerGone
from .http import Http

MISSED = None  # in an inbox: messages may have been missed, look into the history


class Events:
    """Reads the websocket of ``client_id`` while any run is watched, and connects it again."""

    def __init__(self, http: Http, client_id: str):
        self.http = http
        self.client_id = client_id
        self.inboxes: dict[str, asyncio.Queue] = {}
        self.task: asyncio.Task | None = None
        self.opening = asyncio.Lock()

    @contextmanager
    def watch(self, prompt_id: str) -> Iterator[asyncio.Queue]:
        """Give a queue of what comes about a prompt: (kind, data), MISSED, or a ServerGone."""
        inbox = self.inboxes[prompt_id] = asyncio.Queue()
        try:
            yield inbox
        finally:
            del self.inboxes[prompt_id]

    async def connect(self) -> None:
        """Open the websocket unless it is open; raise ServerGone if nobody answers."""
        async with self.opening:
            if self.task is None or self.task.done():
                socket = await self.http.socket(self.client_id)
                self.task = asyncio.create_task(self.read(socket))

    async def close(self) -> None:
        """Close the websocket."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Hand out messages; connect again whenever the connection is lost."""
        while True:
            async with socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:  # else a preview picture
                        self.hand_out(json.loads(message.data))
            try:
                socket = await self.http.patiently(lambda: self.http.socket(self.client_id))
            except ServerGone as error:
                self.tell_all(error)
                return
            self.tell_all(MISSED)

    def hand_out(self, event: dict) -> None:
        """Put a message into the inbox of its prompt, if somebody watches that."""
        data = event.get("data") or {}
        if inbox := self.inboxes.get(data.get("prompt_id")):
            inbox.put_nowait((event["type"], data))

    def tell_all(self, what: ServerGone | None) -> None:
        """Put the same into every inbox."""
        for inbox in self.inboxes.values():
            inbox.put_nowait(what)
