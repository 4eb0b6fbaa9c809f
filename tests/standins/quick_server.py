"""A STAND-IN for ComfyUI's server: it answers as that does and computes nothing.

    python tests/standins/quick_server.py PORT [SECONDS]

It is for measuring what the farm itself costs; whether pictures are right is tested on a real one.
Every prompt takes SECONDS (0.005), one after the other, and makes the same few bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import deque
from pathlib import Path

from aiohttp import WSMsgType, web

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
KEPT = 200  # records of ended prompts
DESCRIBED = {  # node class -> the workflow whose node of that class has all its inputs
    "PuLIDFluxEncodeIdentity": "flux_pulid_save_identity",
    "PuLIDFluxApplyIdentity": "flux_pulid_from_identity",
    "PuLIDSDXLApplyIdentity": "sdxl_pulid_from_identity",
}
SAVES = {"SaveImage": "images", "PuLIDFluxSaveIdentity": "pulid_identity"}


class QuickServer:
    """Its queue, its history and its clients."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.waiting: deque[tuple[str, dict, str]] = deque()
        self.history: dict[str, dict] = {}
        self.numbers = itertools.count()
        self.more = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.add_routes(
            [
                web.get("/ws", self.socket),
                web.post("/prompt", self.prompt),
                web.get("/queue", self.queue),
                web.get("/history/{id}", self.record),
                web.get("/view", self.view),
                web.post("/upload/image", self.upload),
                web.get("/object_info/{kind}", self.described),
                web.get("/workflow_templates", self.templates),
                web.static("/api/workflow_templates/pulid-flux-native", WORKFLOWS),
                web.get("/system_stats", self.stats),
            ]
        )
        app.on_startup.append(self.start)
        return app

    async def start(self, app: web.Application) -> None:
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        while True:
            while not self.waiting:
                self.more.clear()
                await self.more.wait()
            number, prompt, client = self.waiting[0]
            begun = time.time() * 1000
            await asyncio.sleep(self.seconds)
            messages = [["execution_start", {"timestamp": begun}]]
            messages += [["execution_success", {"timestamp": time.time() * 1000}]]
            name = {"filename": f"{next(self.numbers)}.png", "subfolder": "", "type": "output"}
            kinds = {node: SAVES.get(entry["class_type"]) for node, entry in prompt.items()}
            outputs = {node: {kind: [name]} for node, kind in kinds.items() if kind}
            status = {"status_str": "success", "completed": True, "messages": messages}
            self.history[number] = {"outputs": outputs, "status": status}
            if len(self.history) > KEPT:
                del self.history[next(iter(self.history))]
            self.waiting.popleft()
            if socket := self.sockets.get(client):
                data = {"node": None, "prompt_id": number}
                await socket.send_json({"type": "executing", "data": data})

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                break
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.waiting.append((body["prompt_id"], body["prompt"], body["client_id"]))
        self.more.set()
        return web.json_response({"prompt_id": body["prompt_id"], "node_errors": {}})

    async def queue(self, request: web.Request) -> web.Response:
        items = [[0, number] for number, _, _ in self.waiting]
        return web.json_response({"queue_running": items[:1], "queue_pending": items[1:]})

    async def record(self, request: web.Request) -> web.Response:
        number = request.match_info["id"]
        known = {number: self.history[number]} if number in self.history else {}
        return web.json_response(known)

    async def view(self, request: web.Request) -> web.Response:
        return web.Response(body=b"a picture of the stand-in, number " + b"0" * 2000)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        return web.json_response({"name": form["image"].filename})

    async def described(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        path = WORKFLOWS / "api" / f"{DESCRIBED[kind]}.json"
        nodes = json.loads(path.read_text("utf-8")).values()
        (inputs,) = (node["inputs"] for node in nodes if node["class_type"] == kind)
        return web.json_response({kind: {"input": {"required": dict.fromkeys(inputs)}}})

    async def templates(self, request: web.Request) -> web.Response:
        names = [path.stem for path in WORKFLOWS.glob("*.json")]
        return web.json_response({"pulid-flux-native": names})

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({})


async def serve(port: int, seconds: float) -> None:
    runner = web.AppRunner(QuickServer(seconds).app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.005))
