"""Notes reach the page that queued the prompt, and nobody else; the history has them for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid

import aiohttp
import pytest
from standins.server import node_of

pytestmark = pytest.mark.server

NOTE = "How much the faces agree with the others: image 0 1.00, image 1 1.00."
LIMIT = 120.0


@pytest.fixture
def noted(basic) -> dict[str, dict]:
    """Return a prompt that has a note to tell: the faces of two photos."""
    photo = [node_of(basic, "LoadImage"), 0]
    batch = {"class_type": "ImageBatch", "inputs": {"image1": photo, "image2": photo}}
    kinds = ("LoadImage", "PuLIDFluxLoadModel", "PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace")
    prompt = {node_of(basic, kind): basic[node_of(basic, kind)] for kind in kinds}
    apply = basic[node_of(basic, "PuLIDFluxApply")]["inputs"]
    inputs = {k: apply[k] for k in ("pulid_model", "eva_clip", "face_analysis")}
    inputs |= {"image": ["batch", 0], "face": "largest", "face_index": 0, "fusion": "joint"}
    inputs |= {"on_no_face": "error", "grayscale": True, "train_step": uuid.uuid4().int % 20000}
    encode = {"class_type": "PuLIDFluxEncodeIdentity", "inputs": inputs}
    out = {"class_type": "Sink", "inputs": {"thing": ["encode", 0]}}
    return prompt | {"batch": batch, "encode": encode, "out": out}


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


def notes(history: dict) -> list[dict]:
    assert history["status"]["status_str"] == "success", history["status"]
    return history["outputs"]["encode"]["pulid_notes"]


def test_the_second_client_receives_nothing_of_the_first_one_s_run(server, noted):
    first, second = Listener(server, True), Listener(server, True)
    history = asyncio.run(run(server, noted, [first, second]))
    assert any(NOTE.encode() in message for message in first.binary)
    assert second.binary == []
    assert [event["type"] for event in second.texts if event["type"] != "status"] == []
    assert notes(history) == [{"text": NOTE, "warning": False}]


def test_a_client_without_feature_flags_gets_no_binary_message(server, noted):
    plain, page = Listener(server, False), Listener(server, True)
    history = asyncio.run(run(server, noted, [plain, page]))
    assert plain.binary == [] and page.binary == []
    assert notes(history) == [{"text": NOTE, "warning": False}]


def test_a_prompt_without_a_client_sends_no_note_to_anybody(server, noted):
    page = Listener(server, True)

    async def watch() -> dict:
        ready = asyncio.Event()
        task = asyncio.create_task(page.listen(ready))
        await asyncio.wait_for(ready.wait(), LIMIT)
        body = json.dumps({"prompt": noted}).encode()
        with await asyncio.to_thread(server.open, "/prompt", body) as answer:
            prompt_id = json.load(answer)["prompt_id"]
        while prompt_id not in (history := await asyncio.to_thread(server.get, "/history")):
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return history[prompt_id]

    history = asyncio.run(watch())
    assert page.binary == []
    assert notes(history) == [{"text": NOTE, "warning": False}]


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ({"start_step": 1}, b"Acted in 2 of 3 steps."),
        ({"start_step": 7}, b"Did not act: no step between start and end has a weight."),
    ],
    ids=str,
)
def test_after_the_run_apply_says_in_how_many_steps_it_acted(server, basic, window, said):
    basic[node_of(basic, "PuLIDFluxApply")]["inputs"] |= window
    first, second = Listener(server, True), Listener(server, True)
    history = asyncio.run(run(server, basic, [first, second]))
    assert history["status"]["status_str"] == "success"
    apply = node_of(basic, "PuLIDFluxApply").encode()
    assert [m for m in first.binary if said in m and apply in m]
    assert not any(b"cted in" in m or b"not act" in m for m in second.binary)
