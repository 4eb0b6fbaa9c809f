"""A long queue of mixed work on one server: nothing piles up, plain FLUX stays bit-identical."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import time
from collections import Counter

import numpy as np
import psutil
import pytest
import skimage.data
from PIL import Image
from standins.server import node_of, set_inputs

pytestmark = pytest.mark.server

log = logging.getLogger(__name__)

WARM_UP = 12  # prompts until every model and kind of work has been there once
GROWTH = 64e6  # bytes the server may grow by after that; measured: 5 MB in 200 prompts
BATCH = 5  # prompts that wait in the queue together
STEPS_TO_STOP = 400  # of a run that is interrupted before its end
KINDS = ("plain", "photo", "weight", "window", "mask", "two people", "plain")


@pytest.fixture(scope="module")
def photos(server, tmp_path_factory) -> list[str]:
    """Return names of uploaded photos: one face in four framings."""
    folder = tmp_path_factory.mktemp("load")
    whole = Image.fromarray(skimage.data.astronaut())
    names = []
    for number, box in enumerate(((0, 0, 512, 512), (60, 0, 460, 400), (90, 0, 380, 290))):
        path = folder / f"load{number}.png"
        whole.crop(box).save(path)
        names.append(server.upload(path))
    return names


class Work:
    """Makes the prompts of a queue, by number."""

    def __init__(self, basic: dict[str, dict], photos: list[str]):
        self.basic = basic
        self.photos = photos
        self.draw = random.Random("load")
        set_inputs(basic, "KSampler", steps=2)
        set_inputs(basic, "EmptySD3LatentImage", width=96, height=64)

    def make(self, number: int, kind: str) -> dict[str, dict]:
        """Return one prompt: always the same plain one, or another with identity each time."""
        prompt = json.loads(json.dumps(self.basic))
        draw = self.draw
        set_inputs(prompt, "SaveImage", filename_prefix=f"load_{number}")
        apply = node_of(prompt, "PuLIDFluxApply")
        if kind == "plain":
            set_inputs(prompt, "KSampler", model=prompt[apply]["inputs"]["model"], seed=1)
            del prompt[apply]
            return prompt
        set_inputs(prompt, "KSampler", seed=1000 + number)
        set_inputs(prompt, "LoadImage", image=draw.choice(self.photos))
        if kind == "weight":
            set_inputs(prompt, "PuLIDFluxApply", weight=draw.uniform(-1, 3))
        elif kind == "window":
            start = draw.uniform(0, 0.9)
            set_inputs(prompt, "PuLIDFluxApply", start_at=start, end_at=draw.uniform(start, 1))
        elif kind in ("mask", "two people"):
            size = {"value": draw.random(), "width": draw.randint(1, 90), "height": 64}
            prompt["mask"] = {"class_type": "SolidMask", "inputs": size}
            set_inputs(prompt, "PuLIDFluxApply", attn_mask=["mask", 0])
        if kind == "two people":
            inputs = json.loads(json.dumps(prompt[apply]["inputs"]))
            inputs |= {"model": [apply, 0], "weight": draw.uniform(0, 2)}
            prompt["second"] = {"class_type": "PuLIDFluxApply", "inputs": inputs}
            set_inputs(prompt, "KSampler", model=["second", 0])
        elif kind == "long":
            set_inputs(prompt, "KSampler", steps=STEPS_TO_STOP)
        return prompt


def wait_until_idle(server, limit: float = 300.0) -> None:
    """Wait until nothing runs and nothing waits."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        queue = server.get("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.05)
    raise TimeoutError(f"the queue is not empty after {limit} s: {queue}")


def sampled(history: dict, sampler: str) -> bool:
    """Return whether a finished prompt's sampler ran, instead of coming from the host's cache."""
    cached = [m[1]["nodes"] for m in history["status"]["messages"] if m[0] == "execution_cached"]
    return not any(sampler in nodes for nodes in cached)


def pixels(server, history: dict) -> np.ndarray:
    """Return the saved picture of a finished prompt."""
    assert history["status"]["status_str"] == "success", history["status"]
    (picture,) = [i for o in history["outputs"].values() for i in o.get("images", [])][-1:]
    return np.asarray(Image.open(io.BytesIO(server.image(picture))).convert("RGB"))


async def leave_early(server, prompt: dict) -> str:
    """Queue a prompt over a websocket of its own and hang up while it runs."""
    import aiohttp

    address = f"{server.url}/ws?clientId={server.client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        prompt_id = await asyncio.to_thread(server.submit, prompt)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT and '"executing"' in message.data:
                return prompt_id
    raise ConnectionError("the server hung up first")


def stop_one(server, prompt: dict) -> str:
    """Queue a long run and interrupt it at work."""
    prompt_id = server.submit(prompt)
    while not any(entry[1] == prompt_id for entry in server.get("/queue")["queue_running"]):
        time.sleep(0.02)
    time.sleep(0.3)
    server.interrupt()
    return prompt_id


def clear_queue(server) -> None:
    """Drop all that waits."""
    server.open("/queue", b'{"clear": true}').close()


def census(server) -> dict[str, int]:
    """Return how many models are alive when no prompt needs any."""
    result = server.queue({"1": {"class_type": "ModelCensus", "inputs": {}}})
    assert result.error is None, result.error
    (counts,) = result.outputs["1"]["census"]
    return counts


def run_queue(server, work: Work, total: int) -> tuple[Counter, list[float]]:
    """Work off ``total`` prompts; return what became of them and the memory after each batch."""
    process = psutil.Process(server.process.pid)
    ends: Counter = Counter()
    memory, first, number = [], None, 0
    while number < total:
        batch = {}
        for _ in range(BATCH):
            kind = KINDS[number % len(KINDS)]
            batch[server.submit(work.make(number, kind))] = kind
            number += 1
        turn = number // BATCH
        if turn % 3 == 2:
            batch[stop_one(server, work.make(number, "long"))] = "interrupted"
        if turn % 5 == 3:
            clear_queue(server)  # whatever of this batch still waits
        if turn % 4 == 1:
            batch[asyncio.run(leave_early(server, work.make(number, "photo")))] = "left"
        wait_until_idle(server)
        for prompt_id, kind in batch.items():
            history = server.get(f"/history/{prompt_id}").get(prompt_id)
            if history is None:
                ends["cleared"] += 1
                continue
            ends[kind] += 1
            if kind == "interrupted":
                assert history["status"]["status_str"] == "error"
                continue
            found = pixels(server, history)
            assert found.std() > 0
            if kind == "plain":
                ends["plain, sampled anew"] += sampled(history, node_of(work.basic, "KSampler"))
                first = found if first is None else first
                assert np.array_equal(found, first), f"plain prompt of batch {turn}"
        memory.append((number, process.memory_info().rss))
    return ends, memory


def check(server, basic, photos, total: int) -> None:
    """Hold a queue of ``total`` prompts to the promises above."""
    work = Work(basic, photos)
    for photo in photos:  # the folds of the last few people stay, so each of them comes once
        prompt = work.make(0, "two people")
        set_inputs(prompt, "LoadImage", image=photo)
        assert server.queue(prompt).error is None
    before = census(server)
    ends, memory = run_queue(server, work, total)
    after = census(server)
    warm = [rss for number, rss in memory if number >= WARM_UP]
    log.info(
        "%s; models %s, then %s; after warm-up %.0f MB, at most %.0f MB, at the end %.0f MB",
        dict(ends),
        before,
        after,
        warm[0] / 1e6,
        max(warm) / 1e6,
        warm[-1] / 1e6,
    )
    assert server.process.poll() is None
    assert (
        ends["plain, sampled anew"] >= 2
        and ends["interrupted"]
        and ends["left"]
        and ends["cleared"]
    ), ends
    assert all(after[kind] <= before[kind] for kind in before), (before, after)
    assert "memory leak with model" not in server.log.read_text(encoding="utf-8", errors="replace")
    assert warm[-1] - warm[0] < GROWTH, [(n, rss // 10**6) for n, rss in memory]


def test_a_queue_of_mixed_work(server, basic, photos):
    check(server, basic, photos, 25)


@pytest.mark.slow
def test_two_hundred_prompts(server, basic, photos):
    check(server, basic, photos, 200)
