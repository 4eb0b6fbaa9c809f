"""The switches that ComfyUI throws where it finds an NVIDIA card, thrown on this machine's CPU.

``comfy.memory_management.aimdo_enabled`` and ModelPatcherDynamic with real tensors: files are
mapped, layers have no weight before their state dict comes, models are held dynamically. Only
comfy_aimdo's library, which wants a card, is stood in for. What a CPU cannot show (weights that
lie elsewhere, casts, devices) is in house/test_nvidia.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from bench.virtual_card import Card, can_be_dynamic, of_dynamic_vram, replace


@contextlib.contextmanager
def nvidia_switches() -> Iterator[None]:
    """Throw the switches; nothing happens on a ComfyUI that has none."""
    with contextlib.ExitStack() as stack:
        if can_be_dynamic():
            for module, name, value in of_dynamic_vram(Card(torch.device("cpu"), 0)):
                replace(stack, module, name, value)
        yield
