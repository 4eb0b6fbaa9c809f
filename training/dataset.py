"""Prepared pictures as batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import Cache, Outcome, digest
from .draws import Order, held_out
from .pictures import from_png
from .samples import Conditions


@dataclass(frozen=True)
class Sample:
    """One picture of a person, all on the CPU.

    latent [C, h, w] as the VAE makes it; crop [H, W, 3] the whitened face in 0..1; vector [V] of
    the loss's recogniser; text [L, C], pooled [P] or None; box [4], keypoints [5, 2] of the face in
    the picture's pixels.
    """

    name: str
    latent: Tensor
    crop: Tensor
    vector: Tensor
    text: Tensor
    pooled: Tensor | None
    box: Tensor
    keypoints: Tensor


@dataclass(frozen=True)
class Pictures:
    """A set to draw from: ``train`` and ``held_out`` are indices for ``sample``."""

    sample: Callable[[int], Sample]
    train: Sequence[int]
    held_out: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """Pictures of B people, and prompts of B other pictures for the branch."""

    samples: Sequence[Sample]
    others: Sequence[Sample]

    def stack(self, name: str) -> Tensor:
        """Return one field of all samples, stacked and wide."""
        return torch.stack([getattr(one, name).float() for one in self.samples])

    def first(self, count: int) -> Batch:
        """Return the first ``count`` of them, all if 0."""
        count = count or len(self.samples)
        return Batch(self.samples[:count], self.others[:count])


def conditions(samples: Sequence[Sample], guidance: float | None = None) -> Conditions:
    """Return the prompts of samples; shorter ones end in zeros where their lengths differ."""
    length = max(one.text.shape[0] for one in samples)
    text = torch.stack(
        [
            torch.nn.functional.pad(one.text.float(), (0, 0, 0, length - one.text.shape[0]))
            for one in samples
        ]
    )
    pooled = [one.pooled for one in samples]
    stacked = None if pooled[0] is None else torch.stack([one.float() for one in pooled])
    return Conditions(text, stacked, guidance)


def from_cache(cache: Cache, share: float, seed: int) -> Pictures:
    """Return the kept pictures of an open cache.

    Raises ValueError if there are none, or none to validate on although ``share`` asks for some.
    """
    kept = [one for one in cache.kept() if cache.has("texts", cache.text_key(one.caption))]
    if len(kept) < 2:
        raise ValueError(
            f"The cache {cache.folder} holds {len(kept)} pictures that can be trained on, at "
            "least 2 are needed. Run --prepare, and look at thrown_out.txt there."
        )
    return split([one.person for one in kept], share, seed, lambda i: read(cache, kept[i]))


def split(
    people: Sequence[str], share: float, seed: int, sample: Callable[[int], Sample]
) -> Pictures:
    """Divide pictures by their people; at least two are held out where any are wanted."""
    out = held_out(people, share, seed)
    if share > 0 and len({p for p, o in zip(people, out, strict=True) if o}) < 2:
        chosen = set(sorted(set(people), key=lambda person: digest(f"{seed} {person}"))[:2])
        out = [person in chosen for person in people]
    apart = ([i for i, o in enumerate(out) if o is side] for side in (False, True))
    train, others = apart
    if not train:
        raise ValueError(
            f"All {len(people)} pictures are held out or of the same two people, so none is left "
            "to train on. Lower [data] held_out, or name more people."
        )
    return Pictures(sample, train, others)


def read(cache: Cache, outcome: Outcome) -> Sample:
    """Return one picture of the cache."""
    own = cache.get("pictures", outcome.key)
    text = cache.get("texts", cache.text_key(outcome.caption))
    return Sample(
        name=outcome.name,
        latent=own["latent"],
        crop=from_png(own["crop"]),
        vector=own["vector"],
        text=text["text"],
        pooled=text.get("pooled"),
        box=own["box"],
        keypoints=own["keypoints"],
    )


def batch(pictures: Pictures, order: Order, start: int, slots: Sequence[int], size: int) -> Batch:
    """Return the slots of the batch of ``size`` that begins at position ``start``.

    Slot s takes the prompt of slot s + 1 for the branch, also when another process has that.
    """

    def at(slot: int) -> Sample:
        return pictures.sample(pictures.train[order[start + slot]])

    read_once = {slot: at(slot) for slot in {*slots, *((s + 1) % size for s in slots)}}
    return Batch([read_once[s] for s in slots], [read_once[(s + 1) % size] for s in slots])
