"""Several processes as one: torchrun's environment, torch.distributed's collectives.

Each process holds the frozen models and takes its slots of every batch. The adapter's gradients are
averaged after the last of them is there (its layers are called inside FLUX, where DDP's hooks do
not fit), and the optimizer's state is divided among the processes (ZeRO, stage 1).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 64 * 2**20  # bytes that are reduced at a time
WAIT = timedelta(minutes=30)  # for the slowest of the others


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one's rank, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def slots(self, batch: int, part: int) -> tuple[list[int], int]:
        """Return this process's slots of ``part`` of a step, and the size of the whole part.

        ``batch`` pictures go to each process.
        """
        whole = batch * self.size
        start = part * whole + self.rank * batch
        return list(range(start, start + batch)), whole

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over all processes."""
        if self.alone:
            return
        for bucket in buckets(tensors):
            flat = torch._utils._flatten_dense_tensors(bucket)
            dist.all_reduce(flat)
            flat /= self.size
            parts = torch._utils._unflatten_dense_tensors(flat, bucket)
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part)

    def share(self, count: Tensor) -> Tensor:
        """Return this process's part of a count [], times the number of processes: the factor that
        turns its mean over ``count`` things into its part of the mean over everybody's."""
        if self.alone:
            return torch.ones_like(count)
        total = count.clone()
        dist.all_reduce(total)
        return count * self.size / total.clamp_min(1)

    def start_alike(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if not self.alone:
            for parameter in module.parameters():
                dist.broadcast(parameter.data, 0)

    def any(self, here: bool, device: torch.device) -> bool:
        """Return whether it is so in one of the processes."""
        if self.alone:
            return here
        flag = torch.tensor([float(here)], device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def optimizer(
        self,
        kind: type[torch.optim.Optimizer],
        parameters: Sequence[nn.Parameter],
        **arguments: Any,
    ) -> torch.optim.Optimizer:
        """Return an optimizer whose state is divided among the processes."""
        if self.alone:
            return kind(parameters, **arguments)
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(parameters, optimizer_class=kind, **arguments)

    def state_of(self, optimizer: torch.optim.Optimizer) -> Mapping[str, Any] | None:
        """Return an optimizer's whole state_dict in the first process, None in the others."""
        if self.alone:
            return optimizer.state_dict()
        optimizer.consolidate_state_dict(0)
        return optimizer.state_dict() if self.leads else None


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in groups of about ``BUCKET`` bytes."""
    group: list[Tensor] = []
    for tensor in tensors:
        group.append(tensor)
        if sum(one.nbytes for one in group) >= BUCKET:
            yield group
            group = []
    if group:
        yield group


@contextlib.contextmanager
def group(device: torch.device, digest: str) -> Iterator[Group]:
    """Join the processes that torchrun started, or be alone.

    ``digest`` of the settings has to be everybody's. Raises RuntimeError where this process is one
    too many, or has other settings.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    rank = int(os.environ.get("RANK", "0"))
    if not 0 <= rank < size:
        raise RuntimeError(
            f"This process has rank {rank}, but the run is of {size} processes (ranks 0 to "
            f"{size - 1}): it was not joined. Start all of them with one torchrun command, with "
            "--nproc-per-node and --nnodes as large as they are many."
        )
    store = enter(rank, size, digest)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT)
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


def enter(rank: int, size: int, digest: str) -> dist.Store:
    """Meet the others, before anything is loaded; return what they meet in.

    A place that is taken stays with the process that has it.
    """
    store, _, _ = next(iter(dist.rendezvous("env://", rank, size, timeout=WAIT)))
    store = dist.PrefixStore("pulid", store)
    if store.add(f"rank {rank}", 1) > 1:
        raise RuntimeError(
            f"The run is complete: its place {rank} of {size} is taken, so this process was not "
            "joined. End it; for more processes start the run again with --nproc-per-node as "
            "large as they are many, and --resume."
        )
    if rank == 0:
        store.set("settings", digest)
    if (others := store.get("settings").decode()) != digest:
        raise RuntimeError(
            f"This process has other settings ({digest}) than the first one ({others}), so it was "
            "not joined. Give every machine the same file."
        )
    return store
