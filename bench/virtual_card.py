"""A graphics card that is not there: ComfyUI and the pack run on it at a model's true size.

torch's fake tensors carry device, dtype and shape but no values, for "cuda" too on a machine
without one. A forward on them takes seconds and no memory. It fails where two devices meet and
where a value is read back from the card, and it can be counted exactly (cost.py).

    with virtual_card(dynamic=True) as card, card.running():
        model = comfy.sd.load_diffusion_model_state_dict(...)

Only what belongs to the card is stood in for: its properties, its memory, and with ``dynamic``
comfy_aimdo's allocator, which ComfyUI's dynamic VRAM needs. All of ComfyUI's own code runs as it
is: loading, detection, ModelPatcherDynamic, casting, apply_model. At the end all is put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import mmap
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.pinned_memory
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 1 << 30
RAM = 256 * GIB
DEVICES = ("get_torch_device", "text_encoder_device", "vae_device")


@dataclass
class Card:
    """The card while it is there."""

    device: torch.device
    vram: int  # bytes
    staged: int = 0  # bytes of weights that dynamic VRAM made room for
    faults: int = 0  # weights it was asked to bring
    mode: FakeTensorMode = field(
        default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True), repr=False
    )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make every tensor a fake one; all inputs have to be made in here as well."""
        # outside inference mode: inside it, an operation shows itself before it is taken apart
        with torch.inference_mode(False), torch.no_grad(), self.mode, SameTensor():
            yield

    def used(self, device: torch.device) -> int:
        """Return the bytes of the models that ComfyUI has on ``device``."""
        loaded = comfy.model_management.current_loaded_models
        models = (entry.model for entry in loaded if entry.device == device)
        return sum(model.loaded_size() for model in models if model is not None)


class SameTensor(TorchDispatchMode):
    """Fake tensors off the card are equal if they are one tensor: they have no values to tell."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.equal.default and not on_card(args):
            return place(args[0]) == place(args[1])
        return func(*args, **(kwargs or {}))


def on_card(values: Any) -> list[torch.Tensor]:
    """Return the tensors in nested ``values`` that lie on a card."""
    found = (t for t in tree_leaves(values) if isinstance(t, torch.Tensor))
    return [t for t in found if t.device.type == "cuda"]


def place(tensor: torch.Tensor) -> tuple:
    """Return what two tensors share if they are the same stretch of memory."""
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def can_be_dynamic() -> bool:
    """Return whether this ComfyUI has dynamic VRAM."""
    return hasattr(comfy.model_patcher, "ModelPatcherDynamic")


@contextlib.contextmanager
def virtual_card(vram: int = 24 * GIB, *, dynamic: bool = False, index: int = 0) -> Iterator[Card]:
    """Put a card with ``vram`` bytes in place, ComfyUI's default device while inside.

    dynamic: with ComfyUI's dynamic VRAM, its default on NVIDIA; RuntimeError if it has none.
    """
    if dynamic and not can_be_dynamic():
        raise RuntimeError("This ComfyUI has no dynamic VRAM.")
    card = Card(torch.device("cuda", index), vram)
    loaded = comfy.model_management.current_loaded_models
    before = list(loaded)
    loaded.clear()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: loaded.__setitem__(slice(None), before))
        stack.callback(gc.collect)  # what is left of the models goes while their allocator is there
        for stand_in in of_the_card(card) + (of_dynamic_vram(card) if dynamic else []):
            replace(stack, *stand_in)
        yield card
        loaded.clear()


def replace(stack: contextlib.ExitStack, module: Any, name: str, value: Any) -> None:
    """Set ``module.name`` until the stack closes, also where it was imported by name."""
    if not hasattr(module, name):
        return  # another version of ComfyUI
    old = getattr(module, name)
    every = [m for m in sys.modules.values() if isinstance(m, types.ModuleType) and callable(old)]
    others = [m for m in every if m is not module and vars(m).get(name) is old]
    for holder in (module, *others):
        setattr(holder, name, value)
        stack.callback(setattr, holder, name, old)


def of_the_card(card: Card) -> list[tuple[Any, str, Any]]:
    """Return module, name and stand-in of what asks a card or its driver."""
    mm, cuda = comfy.model_management, torch.cuda
    properties = types.SimpleNamespace(
        major=9, minor=0, name="virtual card", total_memory=card.vram, multi_processor_count=132
    )

    def free(dev: torch.device | None = None, torch_free_too: bool = False) -> Any:
        dev = dev or card.device
        amount = max(0, card.vram - card.used(dev)) if dev.type == "cuda" else RAM
        return (amount, 0) if torch_free_too else amount

    def total(dev: torch.device | None = None, torch_total_too: bool = False) -> Any:
        amount = card.vram if (dev or card.device).type == "cuda" else RAM
        return (amount, 0) if torch_total_too else amount

    swap, memo = (
        torch.utils.swap_tensors,
        card.mode.fake_tensor_converter.meta_converter.tensor_memo,
    )

    def swap_tensors(a: torch.Tensor, b: torch.Tensor) -> None:
        memo.clear()  # torch moves no parameter that somebody has a weak reference to
        swap(a, b)

    current = [card.device.index]
    return [
        (torch.utils, "swap_tensors", swap_tensors),
        (cuda, "get_device_properties", lambda *a: properties),
        (cuda, "get_device_capability", lambda *a: (9, 0)),
        (cuda, "get_device_name", lambda *a: properties.name),
        (cuda, "is_bf16_supported", lambda *a, **k: True),
        (cuda, "current_device", lambda: current[0]),
        (cuda, "set_device", lambda d: current.__setitem__(0, torch.device(d).index)),
        *((cuda, name, lambda *a: None) for name in ("synchronize", "empty_cache", "ipc_collect")),
        *((mm, name, lambda *a: card.device) for name in DEVICES),
        (mm, "get_free_memory", free),
        (mm, "get_total_memory", total),
        (mm, "soft_empty_cache", lambda *a, **k: None),
        (mm, "sync_stream", lambda *a, **k: None),
        (mm, "get_offload_stream", lambda *a: None),
        (mm, "vram_state", mm.VRAMState.NORMAL_VRAM),
        (mm, "cpu_state", mm.CPUState.GPU),
        (mm, "pin_memory", lambda *a, **k: False),
    ]


def of_dynamic_vram(card: Card) -> list[tuple[Any, str, Any]]:
    """Return module, name and stand-in of what comfy_aimdo's library does, and its switches."""
    library = ("model_vbar", "host_buffer", "model_mmap", "torch")
    aimdo = {name: importlib.import_module(f"comfy_aimdo.{name}") for name in library}
    vbar = aimdo["model_vbar"]
    patcher = comfy.model_patcher

    def to_tensor(part: tuple[Room, int, int], device: torch.device) -> torch.Tensor:
        return torch.empty(part[2], dtype=torch.uint8, device=device)

    return [
        (vbar, "ModelVBAR", type("ModelVBAR", (Room,), {"card": card})),
        (vbar, "vbar_fault", lambda part: part[0].fault()),
        (vbar, "vbar_unpin", lambda part: None),
        (vbar, "vbar_signature_compare", lambda a, b: a is not None and a == b),
        (vbar, "vbars_analyze", lambda *a: 0),
        (vbar, "vbars_reset_watermark_limits", lambda *a: None),
        (aimdo["host_buffer"], "HostBuffer", HostBuffer),
        (aimdo["host_buffer"], "read_file_to_device", lambda *a, **k: None),  # nothing lies there
        (aimdo["model_mmap"], "ModelMMAP", MappedFile),
        (aimdo["torch"], "aimdo_to_tensor", to_tensor),
        (comfy.pinned_memory, "pin_memory", lambda *a, **k: False),
        (comfy.memory_management, "aimdo_enabled", True),
        (patcher, "CoreModelPatcher", patcher.ModelPatcherDynamic),
    ]


class Room:
    """A model's address range on the card: hands out parts and counts."""

    card: Card

    def __init__(self, size: int, device: Any):
        self.size, self.offset = size, 0

    def alloc(self, count: int) -> tuple[Room, int, int]:
        start = -(-self.offset // 512) * 512
        if start + count > self.size:
            raise MemoryError("the model's address range is full")
        self.offset, self.card.staged = start + count, self.card.staged + count
        return self, start, count

    def fault(self) -> bytes:
        self.card.faults += 1
        return b"\x01"

    def loaded_size(self) -> int:
        return self.offset

    def free_memory(self, count: int) -> int:
        return 0

    prioritize = deprioritize = set_watermark = set_watermark_limit = lambda self, *a: None


class MappedFile:
    """A weight file in memory; without a handle of it ComfyUI copies from there."""

    def __init__(self, path: str):
        with open(path, "rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def get(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def get_file_handle(self) -> None:
        return None


class HostBuffer:
    """Pinned memory that is never filled."""

    def __init__(self, *_: Any, **__: Any):
        self.size = 0

    extend = register = unregister = truncate = read_file_slice = lambda self, *a, **k: None
