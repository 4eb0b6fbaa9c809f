"""How much memory a stretch of work has on the virtual card: what is alive, and the most of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .virtual_card import on_card


class Memory(TorchDispatchMode):
    """Counts the bytes of every storage on the card from its making until nobody holds it.

    What is there before, such as weights, is told to it by ``hold``. Use it inside
    ``Card.running``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def hold(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that are there already; return their bytes."""
        before = self.alive
        for tensor in on_card(list(tensors)):
            self.see(tensor)
        return self.alive - before

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        size = storage.nbytes()
        self.known[storage] = size
        weakref.finalize(storage, self.gone, size)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def gone(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cuda":
                self.see(tensor)
        return out
