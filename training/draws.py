"""Random numbers as functions of where they are used, and the order of the pictures.

No draw depends on those before it: a run that goes on from a checkpoint, or that is spread over
other processes, draws what the undisturbed one would have drawn. torch's random state stays as it
is. All draws are made on the CPU, so that every device gets the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def generator(*place: int | str) -> torch.Generator:
    """Return a generator of its own for a place, such as (seed, step, slot, "noise")."""
    number = int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def normals(shape: Sequence[int], seed: int, step: int, slots: Sequence[int], what: str) -> Tensor:
    """Return N(0, 1) numbers [slots, *shape]; each slot of the batch draws for itself."""
    drawn = [
        torch.randn(tuple(shape), generator=generator(seed, step, slot, what)) for slot in slots
    ]
    return torch.stack(drawn)


@dataclass(frozen=True)
class Order:
    """The order in which ``count`` pictures are taken: all of them, shuffled anew each time."""

    count: int
    seed: int

    def __getitem__(self, position: int) -> int:
        """Return the picture at a position of the endless sequence."""
        again, place = divmod(position, self.count)
        return shuffled(self.count, self.seed, again)[place]


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, again: int) -> list[int]:
    return torch.randperm(count, generator=generator(seed, again, "order")).tolist()


def held_out(people: Sequence[str], share: float, seed: int) -> list[bool]:
    """Return for each picture whether its person is kept from training.

    It depends on the person's name alone, so it does not change when pictures are added.
    """
    limit = int(share * 2**32)
    digests = [hashlib.sha256(f"{seed} {person}".encode()).digest() for person in people]
    return [int.from_bytes(one[:4], "big") < limit for one in digests]
