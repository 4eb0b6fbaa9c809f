"""Requests to one server, repeated while it is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from .errors import ServerError, ServerGone

REQUEST = aiohttp.ClientTimeout(total=120.0)  # a server that loads a model may not answer at once
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError, OSError)
HEARTBEAT = 30.0  # seconds; finds a connection that ended without a word


class Http:
    """A session with the server at ``url``.

    patience: how many seconds a server that answered before may be away.
    """

    def __init__(self, url: str, patience: float, headers: Mapping[str, str] | None):
        self.url = url.rstrip("/")
        self.patience = patience
        self.headers = headers
        self.session: aiohttp.ClientSession | None = None
        self.met = False  # a wrong address is said at once

    async def open(self) -> None:
        """Open the session; it reaches the server directly, past any proxy of the environment."""
        self.session = aiohttp.ClientSession(headers=self.headers, timeout=REQUEST)

    async def close(self) -> None:
        """Close the session."""
        if self.session is not None:
            await self.session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Return the JSON at ``path``."""
        return json.loads(await self.get_bytes(path, query))

    async def get_bytes(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """Return the body at ``path``."""
        return await self.patiently(lambda: self.once("GET", path, params=query))

    async def post(self, path: str, body: Any) -> bytes:
        """Post JSON that may arrive twice without harm; return the answer."""
        return await self.patiently(lambda: self.once("POST", path, json=body))

    async def once(self, method: str, path: str, **what: Any) -> bytes:
        """Send one request; ServerGone if no answer comes, ServerError if it is an error."""
        if self.session is None:
            raise RuntimeError("The client is not open: use it in 'async with Client(url) as …'.")
        try:
            async with self.session.request(method, self.url + path, **what) as answer:
                body = await answer.read()
                self.met = True
                if answer.status >= 400:
                    text = body.decode("utf-8", "replace")
                    raise ServerError(answer.status, f"{self.url}{path}", text)
                return body
        except AWAY as error:
            reason = str(error) or type(error).__name__
            raise ServerGone(f"No ComfyUI answers at {self.url}: {reason}") from error

    async def socket(self, client_id: str) -> aiohttp.ClientWebSocketResponse:
        """Open the websocket; ServerGone if that fails."""
        try:
            socket = await self.session.ws_connect(
                f"{self.url}/ws",
                params={"clientId": client_id},
                max_msg_size=0,
                heartbeat=HEARTBEAT,
            )
        except (aiohttp.WSServerHandshakeError, *AWAY) as error:
            reason = str(error) or type(error).__name__
            raise ServerGone(f"No websocket opens at {self.url}: {reason}") from error
        self.met = True
        return socket

    async def patiently(self, attempt: Any) -> Any:
        """Repeat ``attempt`` while the server is away, for ``patience`` seconds at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        pause = FIRST_PAUSE
        while True:
            try:
                return await attempt()
            except ServerGone:
                if not self.met or loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
