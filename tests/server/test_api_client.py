"""The client that services install, against a real server and over a network that fails."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from pulid_client import Client, NodeFailed, PromptLost, PromptRefused, ServerError, ServerGone
from standins.proxy import Proxy
from standins.server import node_of, saved_pictures, set_inputs

pytestmark = pytest.mark.server

SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """Return a photo with one face."""
    path = tmp_path_factory.mktemp("photo") / "me.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


@pytest.fixture
def proxy(server):
    with Proxy(server.url) as between:
        yield between


def talk(url: str, use, **options):
    """Return what ``use`` does with a client."""

    async def whole():
        async with Client(url, **options) as comfy:
            return await asyncio.wait_for(use(comfy), 120)

    return asyncio.run(whole())


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def long(basic: dict, seed: int, steps: int = 400) -> dict:
    """Return a prompt that is still running when the test comes to it."""
    set_inputs(basic, "KSampler", steps=steps, seed=seed)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    return basic


def started(running: asyncio.Event):
    """Return an on_event that tells when the sampler has made a step."""
    return lambda kind, data: running.set() if kind == "progress" and data["max"] > 20 else None


def test_render_makes_the_picture_that_the_bare_api_makes(server, basic, photo, tmp_path):
    # notes of nodes that an earlier test ran are not shown again by every version
    server.open("/free", json.dumps({"unload_models": True, "free_memory": True}).encode()).close()
    told = []
    settings = {"Save picture.filename_prefix": "by_client"}
    picture = talk(
        server.url,
        lambda comfy: comfy.render(
            "flux_pulid_basic",
            photo=photo,
            prompt="a person at sea",
            negative="text",
            weight=0.7,
            seed=21,
            settings=settings,
            progress=told.append,
            **SMALL,
        ),
    )
    set_inputs(basic, "KSampler", seed=21, steps=2)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    set_inputs(basic, "PuLIDFluxApply", weight=0.7)
    by_title = {node["_meta"]["title"]: node["inputs"] for node in basic.values()}
    by_title["Prompt"]["text"] = "a person at sea"
    (expected,) = saved_pictures(server, basic)
    assert np.array_equal(pixels(picture.save(tmp_path / "out.png").read_bytes()), expected)
    assert picture.name.startswith("by_client")
    assert picture.result.span[1] > picture.result.span[0] > time.time() - 600
    assert picture.result.notes == ["Face models on CPU"]
    assert [(p.step, p.steps) for p in told if p.title == "Sampler"] == [(0, 0), (1, 2), (2, 2)]


def test_a_photo_is_uploaded_once_under_its_content(server, photo):
    async def twice(comfy):
        return [await comfy.upload(p) for p in (photo, str(photo), photo.read_bytes())]

    names = talk(server.url, twice)
    assert len(set(names)) == 1 and len(names[0]) == 24 + len(".png")


def test_an_identity_travels_as_a_file(server, basic, photo):
    async def there_and_back(comfy):
        prompt = await comfy.prompt(basic, photo=photo, seed=5)
        loading, encodings = await comfy.take_out(prompt)
        ((name, encoding),) = encodings.items()
        file = await comfy.encode(encoding)
        assert await comfy.ship(file, f"{name}.safetensors") == f"{name}.safetensors"
        by_name = await comfy.render(loading)
        settings = {"Save picture.filename_prefix": "again"}
        by_content = await comfy.render(loading, identity=file, settings=settings)
        return loading, file, by_name, by_content

    loading, file, *made = talk(server.url, there_and_back)
    kinds = {node["class_type"] for node in loading.values()}
    assert not kinds & {"PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace", "LoadImage"}
    assert file[8:9] == b"{", "a safetensors file begins with its header"
    set_inputs(basic, "KSampler", seed=5)
    (expected,) = saved_pictures(server, basic)
    for picture in made:
        assert np.array_equal(pixels(picture.data), expected)


def test_what_cannot_be_set_is_said_before_anything_is_queued(server, photo):
    def fails(message: str, **settings):
        with pytest.raises(ValueError, match=message):
            talk(server.url, lambda comfy: comfy.render("flux_pulid_basic", **settings))

    fails("No node has the title 'Sample'. Did you mean 'Sampler'?", settings={"Sample.cfg": 1})
    fails("'Sampler' has no input 'step'. Did you mean 'steps'", settings={"Sampler.step": 1})
    fails("comes from the node 'Apply PuLID-Flux'", settings={"Sampler.model": 1})
    fails("'Sampler' is not of the form 'title.input'", settings={"Sampler": 1})
    fails("no place for 'identity'", identity="x")
    with pytest.raises(ValueError, match="no workflow 'flux_basic'(.|\n)*flux_pulid_basic"):
        talk(server.url, lambda comfy: comfy.render("flux_basic"))


def test_errors_tell_whose_fault_it_is(server, basic, proxy, tmp_path):
    with pytest.raises(PromptRefused, match="UNETLoader.*nowhere.safetensors"):
        settings = {"Load Diffusion Model.unet_name": "nowhere.safetensors"}
        talk(server.url, lambda comfy: comfy.render(basic, settings=settings))
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    with pytest.raises(NodeFailed, match="PuLIDFluxApply: .*No face was found") as failed:
        talk(server.url, lambda comfy: comfy.render(basic, photo=tmp_path / "black.png"))
    assert failed.value.report["traceback"]
    proxy.ill = True
    with pytest.raises(ServerError, match="/prompt answered with HTTP status 500: out of order"):
        talk(proxy.url, lambda comfy: comfy.run(basic))
    proxy.go_away()
    begun = time.monotonic()
    with pytest.raises(ServerGone, match=f"at {proxy.url}"):
        talk(proxy.url, lambda comfy: comfy.run(basic))
    assert time.monotonic() - begun < 5, "a wrong address is said at once"
    with pytest.raises(PromptLost, match="no longer knows the prompt"):
        talk(server.url, lambda comfy: comfy.wait(str(uuid.uuid4())))


def test_a_dropped_socket_and_a_short_absence_cost_nothing(server, basic, proxy):
    prompt = long(basic, 31, 24)

    async def through(comfy):
        running = asyncio.Event()
        task = asyncio.create_task(comfy.run(prompt, started(running)))
        await running.wait()
        await asyncio.to_thread(proxy.cut)
        running.clear()
        await running.wait()  # messages come again
        await asyncio.to_thread(proxy.go_away)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(proxy.come_back)
        return await task

    result = talk(proxy.url, through)
    assert result.error is None and len(result.images(node_of(prompt, "SaveImage"))) == 1
    assert proxy.prompts == 1


def test_a_prompt_whose_answer_was_lost_is_not_queued_again(server, basic, proxy):
    proxy.swallow = 1
    set_inputs(basic, "KSampler", seed=32)
    before = set(server.get("/history"))
    result = talk(proxy.url, lambda comfy: comfy.run(basic))
    assert result.error is None
    assert proxy.prompts == 1
    assert set(server.get("/history")) - before == {result.prompt_id}


def test_a_server_that_stays_away_is_given_up(server, basic, proxy):
    prompt = long(basic, 33)

    async def through(comfy):
        running = asyncio.Event()
        task = asyncio.create_task(comfy.run(prompt, started(running)))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(proxy.go_away)
        await task

    begun = time.monotonic()
    with pytest.raises(ServerGone):
        talk(proxy.url, through, patience=1.0)
    assert time.monotonic() - begun < 10
    server.interrupt()


@pytest.mark.parametrize("how", ["limit", "task", "cancel"])
def test_what_nobody_waits_for_is_cancelled_and_nothing_else(server, basic, how):
    prompt = long(basic, 34)
    other = json.loads(json.dumps(long(basic, 35, 2)))

    async def stop(comfy):
        running = asyncio.Event()
        limit = 1.0 if how == "limit" else 600.0
        task = asyncio.create_task(comfy.run(prompt, started(running), limit))
        await (asyncio.sleep(0.5) if how == "limit" else running.wait())
        behind = await comfy.queue(other)
        if how == "task":
            task.cancel()
        elif how == "cancel":
            (first, _) = await comfy.waiting()
            await comfy.cancel(first)
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        return ended, await comfy.wait(behind)

    set_inputs(prompt, "KSampler", seed=34 + len(how), steps=400)
    ended, behind = talk(server.url, stop)
    if how == "cancel":
        assert ended.error["node_type"] == "KSampler"
        assert ended.error["exception_message"] == "interrupted"
    else:
        kind = {"limit": TimeoutError, "task": asyncio.CancelledError}[how]
        assert isinstance(ended, kind)
    assert behind.error is None
    assert behind.span[1] - behind.span[0] < 30
