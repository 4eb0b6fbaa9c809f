"""What the pack costs a graph it has no part in: nothing. Calls in ComfyUI's caches are counted."""

from __future__ import annotations

import asyncio
import sys

from comfy_execution import caching
from comfy_execution.graph import DynamicPrompt
from execution import CacheEntry, IsChangedCache
from pulid_pack.nodes import PuLIDFluxExtension

import nodes

LENGTH = 60


def chain() -> dict[str, dict]:
    """Return a prompt of 60 core nodes, one behind the other."""
    inputs = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    prompt = {"0": {"class_type": "EmptyImage", "inputs": inputs}}
    for number in range(1, LENGTH):
        inputs = {"image": [str(number - 1), 0]}
        prompt[str(number)] = {"class_type": "ImageInvert", "inputs": inputs}
    return prompt


async def queue_once() -> None:
    """Let ComfyUI's output cache take a prompt as its executor does."""
    cache = caching.HierarchicalCache(caching.CacheKeySetInputSignature, **providers())
    prompt = DynamicPrompt(chain())
    changed = IsChangedCache("prompt", prompt, cache)
    await cache.set_prompt(prompt, list(prompt.original_prompt), changed)
    cache.clean_unused()
    for node in prompt.original_prompt:
        found = cache.get(node)  # some hosts wait for it
        assert (await found if asyncio.iscoroutine(found) else found) is None
        stored = cache.set(node, CacheEntry(ui={}, outputs=[]))
        if asyncio.iscoroutine(stored):
            await stored


def providers() -> dict[str, bool]:
    """Return the option that lets cache providers in, where the host has it."""
    known = caching.HierarchicalCache.__init__.__code__.co_varnames
    return {"enable_providers": True} if "enable_providers" in known else {}


def calls() -> int:
    """Return how many functions run for a prompt: its work, however fast the machine is."""
    found = 0

    def count(frame, event: str, what) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    asyncio.run(queue_once())  # what is only done once, is done
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        asyncio.run(queue_once())
    finally:
        sys.setprofile(before)
    return found


def test_a_plain_chain_queues_as_fast_with_the_pack():
    assert {"EmptyImage", "ImageInvert"} <= set(nodes.NODE_CLASS_MAPPINGS)
    without = calls()
    assert without > 20 * LENGTH
    asyncio.run(PuLIDFluxExtension().on_load())
    assert calls() <= 1.01 * without  # the event loop's own calls differ by a few
