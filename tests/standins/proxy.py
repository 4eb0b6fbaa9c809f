"""A network between client and server that can be told to fail."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import aiohttp
from aiohttp import web

HOP = {"host", "transfer-encoding", "content-encoding", "content-length", "connection"}


class Proxy:
    """Passes everything on to the server at ``behind``, from an address of its own.

    ill: POST /prompt gets the status 500; swallow: so many of its next answers get lost after the
    server has them; prompts: how many it has let through; sockets: those that are open.
    """

    def __init__(self, behind: str):
        self.behind = behind
        self.ill = False
        self.swallow = 0
        self.prompts = 0
        self.port = 0
        self.sockets: set[web.WebSocketResponse] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self.thread.start()
        self.do(self.start())
        return self

    def __exit__(self, *exception: object) -> None:
        self.do(self.end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def do(self, what) -> None:
        """Run a coroutine in the proxy's thread and wait for it."""
        asyncio.run_coroutine_threadsafe(what, self.loop).result(30)

    def cut(self) -> None:
        """Drop the websockets."""
        self.do(self.drop())

    def go_away(self) -> None:
        """Drop everything, and listen no more."""
        self.do(self.stop())

    def come_back(self) -> None:
        """Listen again, at the same address."""
        self.do(self.listen())

    async def start(self) -> None:
        self.session = aiohttp.ClientSession(auto_decompress=False)
        await self.listen()

    async def listen(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        await self.drop()
        await self.runner.cleanup()

    async def end(self) -> None:
        await self.stop()
        await self.session.close()

    async def drop(self) -> None:
        for socket in list(self.sockets):
            if (transport := socket._req.transport) is not None:  # else the other end closed it
                transport.abort()
        self.sockets.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.bridge(request)
        queues = request.method == "POST" and request.path == "/prompt"
        if queues and self.ill:
            return web.Response(status=500, text="out of order")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        address = self.behind + request.path_qs
        body = await request.read()
        async with self.session.request(request.method, address, data=body, headers=headers) as got:
            content = await got.read()
        self.prompts += queues
        if queues and self.swallow:
            self.swallow -= 1
            request.transport.abort()
        kept = {k: v for k, v in got.headers.items() if k.lower() not in HOP}
        return web.Response(status=got.status, body=content, headers=kept)

    async def bridge(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self.sockets.add(socket)
        address = self.behind + request.path_qs
        with contextlib.suppress(ConnectionError):
            async with self.session.ws_connect(address, max_msg_size=0) as server:
                async for message in server:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await socket.send_str(message.data)
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        await socket.send_bytes(message.data)
        self.sockets.discard(socket)
        return socket
