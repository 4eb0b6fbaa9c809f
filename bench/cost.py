"""What identity costs a card, counted exactly: FLOPs, kernels, bytes moved and bytes kept."""

from __future__ import annotations

from collections.abc import Callable
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


class Cost(TorchDispatchMode):
    """What a stretch of work costs the card; use it inside ``Card.running``."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.bytes = 0  # read and written
        self.reads = 0  # values read back, off the card too: on a card each is a wait
        self.counter = FlopCounterMode(display=False)

    @property
    def flops(self) -> int:
        return self.counter.get_total_flops()

    def __enter__(self) -> Cost:
        self.counter.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.counter.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.reads += name in ("_local_scalar_dense", "equal", "nonzero")
        tensors = on_card((args, kwargs, out))
        # x[i] += y ends in a copy of x[i] onto itself, which torch leaves out
        onto_itself = name == "copy_" and place(args[0]) == place(args[1])
        if tensors and func.namespace == "aten" and name not in FREE and not onto_itself:
            self.kernels += 1
            self.bytes += sum(t.numel() * t.itemsize for t in tensors)
        return out


def measured(work: Callable[[], Any]) -> Cost:
    """Run ``work`` and return what it cost."""
    with Cost() as cost:
        work()
    return cost
