"""Drawn people as a training set: scenes, photos and prompts, made where they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..training.dataset import Pictures, Sample
from ..training.recogniser import warp
from .crops import tower_crops
from .flux import POOLED, text_of
from .people import HELD_OUT, TRAINED, draw_people, on_another_day
from .pool import CHUNK, SIDE
from .renderer import boxes, keypoints, photo, photo_keypoints, render
from .school import TOWER
from .world import World


@torch.no_grad()
def album(world: World, trained: int, held_out: int, seed: int) -> Pictures:
    """Return so many people to train on and to validate with, no two pictures of the same one.

    A photo shares neither words nor light with its person's scene, so that neither can be learnt
    from it.
    """
    first = samples(world, trained, TRAINED + 1000 * seed)
    others = samples(world, held_out, HELD_OUT + 1000 * seed)
    every = first + others
    return Pictures(every.__getitem__, range(len(first)), range(len(first), len(every)))


def samples(world: World, count: int, seed: int) -> list[Sample]:
    """Return a sample of each person of a seed, the photo from another day."""
    people = draw_people(count, seed)
    sitters = on_another_day(people, seed)
    latents, crops, vectors = [], [], []
    for row in range(0, count, CHUNK):
        part = slice(row, row + CHUNK)
        latents.append(world.codec.encode(render(people[part], SIDE)))
        photos = photo(sitters[part], SIDE)
        points = photo_keypoints(sitters[part], SIDE)
        faces = (2 * warp(photos, points) - 1).to(world.device)
        vectors.append(world.recogniser(faces).cpu())
        crops.append(tower_crops(255 * photos, points, TOWER.side * TOWER.patch))
    text, heads = text_of(people), boxes(people, SIDE)
    points = keypoints(people, SIDE)
    crop = as_crop(torch.cat(crops))
    every = (torch.cat(latents), crop, torch.cat(vectors), text, heads, points)
    return [
        Sample(f"person {seed} {n}", latent, crop, vector, text, torch.zeros(POOLED), box, five)
        for n, (latent, crop, vector, text, box, five) in enumerate(zip(*every, strict=True))
    ]


def as_crop(crops: Tensor) -> Tensor:
    """Return byte crops [N, 3, S, S] as training keeps them, [N, S, S, 3] in 0..1."""
    return crops.movedim(1, -1).float() / 255
