"""The backward pass on the virtual card.

torch's own engine asks CUDA's driver for its streams, so without one it cannot run on fake tensors
of a card. This one visits the same nodes in the same order in Python, and each node runs as it is:
the checks of device, the casts to a gradient's dtype and the recomputation of checkpoints too.
"""

from __future__ import annotations

import gc
import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

GRAPH = 1 << 40  # names this pass for checkpoints, which are then recomputed once


def backward(loss: Tensor) -> None:
    """Add to ``.grad`` of all leaves, as ``loss.backward()`` does.

    Raises RuntimeError where a gradient is on another device than what it is the gradient of.
    """
    with mock.patch.object(torch._C, "_current_graph_task_id", lambda: GRAPH), torch.no_grad():
        walk(loss.grad_fn, torch.ones_like(loss))


@contextmanager
def mixed_precision() -> Iterator[None]:
    """Let autocast act on the virtual card, which torch sees no card for."""
    name = "torch.cuda.amp.common.amp_definitely_not_available"
    with mock.patch(name, lambda: False):
        yield


def walk(root: Any, gradient: Tensor) -> None:
    """Run every node that leads from ``root`` to a leaf, the latest first.

    What a node leaves in circles is freed at once: the peak must not hang on when Python looks.
    """
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again
    try:
        visit(root, gradient)
    finally:
        gc.unfreeze()


def visit(root: Any, gradient: Tensor) -> None:
    """Run the nodes of ``walk``."""
    waiting = users(root)
    given: dict[Any, dict[int, Tensor]] = {root: {0: gradient}}
    ready = [(-root._sequence_nr(), 0, root)]
    count = 0
    while ready:
        _, _, node = heapq.heappop(ready)
        inputs = given.pop(node, {})
        if leaf := getattr(node, "variable", None) is not None:
            add(node.variable, inputs)
        outs = None if leaf or not inputs else node(*in_order(inputs, node))
        outs = outs if isinstance(outs, tuple) else (outs,)
        for (after, number), out in zip(node.next_functions, outs + (None,) * 99, strict=False):
            if after is None:
                continue
            if out is not None:
                own = given.setdefault(after, {})
                out = fitting(out, after, number)
                own[number] = own[number] + out if number in own else out
            waiting[after] -= 1
            if not waiting[after]:
                count += 1
                heapq.heappush(ready, (-after._sequence_nr(), count, after))
        gc.collect()


def users(root: Any) -> dict[Any, int]:
    """Return how many edges lead to each node."""
    found: dict[Any, int] = {}
    todo, seen = [root], {root}
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                found[node] = found.get(node, 0) + 1
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
    return found


def in_order(inputs: dict[int, Tensor], node: Any) -> list[Tensor | None]:
    """Return a node's inputs, None where nothing came."""
    return [inputs.get(number) for number in range(len(node._input_metadata))]


def fitting(gradient: Tensor, node: Any, number: int) -> Tensor:
    """Return a gradient as its tensor is: torch sums over what was broadcast, and casts."""
    wanted = node._input_metadata[number]
    if gradient.device != wanted.device:
        raise RuntimeError(
            f"{node.name()} gets a gradient on {gradient.device}, expected {wanted.device}"
        )
    if gradient.shape != wanted.shape:
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient.to(wanted.dtype)


def add(leaf: Tensor, inputs: dict[int, Tensor]) -> None:
    """Add to a leaf's gradient."""
    for gradient in inputs.values():
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
