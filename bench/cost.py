"""What identity costs a card, counted exactly: FLOPs, kernels, bytes moved and bytes kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .virtual_card import on_card, place

# Views and questions about shapes: the card does nothing for them.
FREE = frozenset(
    ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "transpose", "t", "permute")
    + ("expand", "slice", "split", "split_with_sizes", "chunk", "unbind", "select", "unflatten")
    + ("as_strided", "detach", "alias", "lift_fresh", "_local_scalar_dense")
    + ("empty", "empty_like", "empty_strided", "new_empty")
)
OVERWRITES = frozenset(("copy_", "fill_", "zero_"))  # what was in the first argument is not read


@dataclass(frozen=True)
class Cost:
    """What a stretch of work costs the card."""

    flops: float  # of the matrix products
    kernels: float
    bytes: float  # read and written

    def beyond(self, other: Cost) -> Cost:
        """Return what this costs more than ``other``."""
        return Cost(
            self.flops - other.flops, self.kernels - other.kernels, self.bytes - other.bytes
        )

    def times(self, factor: float) -> Cost:
        """Return the cost of ``factor`` times the work."""
        return Cost(self.flops * factor, self.kernels * factor, self.bytes * factor)


class Counter(TorchDispatchMode):
    """Counts kernels and bytes; use it inside ``Card.running``."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        # x[i] += y ends in a copy of x[i] onto itself, which torch leaves out
        onto_itself = name == "copy_" and place(args[0]) == place(args[1])
        inputs = args[1:] if name in OVERWRITES else args
        moved = on_card((inputs, {k: v for k, v in (kwargs or {}).items() if k != "out"}, out))
        if moved and func.namespace == "aten" and name not in FREE and not onto_itself:
            self.kernels += 1
            self.bytes += sum(t.numel() * t.itemsize for t in moved)
        return out


def measured(work: Callable[[], Any]) -> Cost:
    """Run ``work`` and return what it cost."""
    with FlopCounterMode(display=False) as flops, Counter() as counter:
        work()
    return Cost(flops.get_total_flops(), counter.kernels, counter.bytes)
