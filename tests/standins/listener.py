"""Clients on the server's websocket, and runs that several of them watch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid

import aiohttp

LIMIT = 120.0


class Listener:
    """A client on the server's websocket that writes down all it gets."""

    def __init__(self, server, flags: bool):
        self.server, self.flags = server, flags
        self.id = uuid.uuid4().hex
        self.texts: list[dict] = []
        self.binary: list[bytes] = []
        self.done = asyncio.Event()

    async def listen(self, ready: asyncio.Event) -> None:
        address = f"{self.server.url}/ws?clientId={self.id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            if self.flags:
                data = {"supports_preview_metadata": True}
                await socket.send_json({"type": "feature_flags", "data": data})
                while (await socket.receive_json())["type"] != "feature_flags":
                    pass
            ready.set()
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.binary.append(message.data)
                    continue
                event = json.loads(message.data)
                self.texts.append(event)
                if event["type"] == "executing" and event["data"]["node"] is None:
                    self.done.set()


def submit(server, prompt: dict, client: str) -> str:
    body = json.dumps({"prompt": prompt, "client_id": client}).encode()
    with server.open("/prompt", body) as answer:
        return json.load(answer)["prompt_id"]


async def run(server, prompt: dict, clients: list[Listener]) -> dict:
    """Queue for the first client while all listen; return the history of the run."""
    tasks = []
    for client in clients:
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(client.listen(ready)))
        await asyncio.wait_for(ready.wait(), LIMIT)
    prompt_id = await asyncio.to_thread(submit, server, prompt, clients[0].id)
    await asyncio.wait_for(clients[0].done.wait(), LIMIT)
    await asyncio.sleep(0.5)  # for what may come late
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    history = await asyncio.to_thread(server.get, f"/history/{prompt_id}")
    return history[prompt_id]
