"""An adapter looked at on people that nobody was trained on: likeness, disruption, words, light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..training import branch
from ..training.adapter import Adapter
from ..training.base import Base
from ..training.dataset import Sample, conditions
from ..training.draws import generator
from ..training.models import Models, id_features
from .flux import CHANNELS
from .people import People
from .pool import SIDE
from .world import World

BATCH = 64
REACH = 1.6  # of the five points' extent: a head with its hair, to each side
LATENT = SIDE // 4


@dataclass(frozen=True)
class Judged:
    """Each picture's figures, all [N].

    likeness: cosine of photo and picture by the judge, 0 where no face is found; faces: 1 where one
    is; outside: mean difference to the picture without identity outside both heads, of 255; words:
    share of the prompt's words that are read back; light: how much brighter than without identity.
    """

    likeness: Tensor
    faces: Tensor
    outside: Tensor
    words: Tensor
    light: Tensor


def draw(
    models: Models,
    base: Base,
    adapter: Adapter | None,
    samples: Sequence[Sample],
    text: Sequence[Sample],
    weight: float,
    seed: int,
    steps: int = 4,
) -> Tensor:
    """Return the pictures [N, 3, 64, 64] of samples' people with the prompts of ``text``.

    The same seed draws the same noise for every adapter and weight. Without an adapter: nobody.
    """
    sigmas = base.sigmas(steps)
    if adapter is not None:
        adapter.to(base.device)
    pictures = []
    for row in range(0, len(samples), BATCH):
        own, prompts = samples[row : row + BATCH], text[row : row + BATCH]
        shape = (len(own), CHANNELS, LATENT, LATENT)
        noise = torch.randn(shape, generator=generator(seed, row, "judging")).to(base.device)
        cond = base.prepare(conditions(prompts), noise)
        identity = None
        if adapter is not None and weight:
            identity = adapter.identity(adapter.tokens(*id_features(models, own)), weight)
        ran = branch.run(base, identity, noise, cond, sigmas, 1)
        pictures.append(models.decode(base, ran.latent).cpu())
    return torch.cat(pictures)


def judge(world: World, pictures: Tensor, plain: Tensor, photos: Tensor, people: People) -> Judged:
    """Compare pictures with their people's photos, with those without identity, and with words.

    photos: the judge's vectors [N, V]; people: whose words the prompts had.
    """
    pictures, plain = pictures.to(world.device), plain.to(world.device)
    vectors, found = world.vectors(world.judge)(pictures.clamp(0, 1))
    likeness = cosine_similarity(photos, vectors, dim=-1) * found
    away = ~(heads(world, pictures) | heads(world, plain))[:, None]
    change = (pictures.clamp(0, 1) - plain.clamp(0, 1)).abs() * away
    outside = 255 * change.sum((1, 2, 3)) / (3 * away.sum((1, 2, 3))).clamp_min(1)
    lit = (pictures - plain).mean((1, 2, 3))
    rows = likeness, found, outside, words_read(world, pictures, people), lit
    return Judged(*(row.cpu() for row in rows))


def words_read(world: World, pictures: Tensor, people: People) -> Tensor:
    """Return the share of the said words that the reader finds, [N]; 1 where none is said."""
    lines = world.reader.lines(pictures.clamp(0, 1))
    read = torch.stack([own.argmax(1) for own in lines], 1).cpu()
    right = read == people.words
    said = people.said.float()
    return torch.where(people.said.any(1), (right * said).sum(1) / said.sum(1).clamp_min(1), 1.0)


def heads(world: World, pictures: Tensor) -> Tensor:
    """Return where the heads are, bool [N, 64, 64]; nowhere in a picture without a face."""
    points, found = world.find(pictures)
    low, high = points.amin(1), points.amax(1)
    middle, reach = (low + high) / 2, REACH * (high - low).amax(1, keepdim=True)
    at = torch.arange(pictures.shape[-1], device=points.device) + 0.5
    inside = [
        (at - middle[:, axis : axis + 1]).abs() < reach for axis in (0, 1)
    ]  # x, y, each [N, 64]
    return inside[1][:, :, None] & inside[0][:, None] & (found > 0)[:, None, None]


def correlation(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two rows of numbers."""
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])
