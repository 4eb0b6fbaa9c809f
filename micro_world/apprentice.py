"""Adapters of the drawn world, trained by training/ like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..training import loop
from ..training.checkpoints import all_of
from ..training.dataset import Pictures
from ..training.distributed import Group
from ..training.studio import make_adapter
from .album import album
from .recipes import VARIANTS, recipe
from .world import World

PEOPLE, HELD_OUT = 4096, 16


def train_variant(
    world: World,
    variant: str,
    folder: Path,
    seed: int,
    tell: Callable[[str], None],
    pictures: Pictures | None = None,
) -> Path:
    """Train a variant, and first those that it goes on from; return its PuLID file.

    What is in ``folder`` already is gone on from, or left as it is where it is done.
    """
    pictures = pictures or album(world, PEOPLE, HELD_OUT, seed)
    before, _ = VARIANTS[variant]
    start = train_variant(world, before, folder, seed, tell, pictures) if before else None
    own = folder / f"seed {seed}" / variant.replace(":", "")
    config = recipe(variant, own, seed, start)
    file = own / f"{config.adapter.name}.safetensors"
    begun = all_of(own / "checkpoints")
    if begun and begun[-1].stem.endswith(f"{config.steps:08d}"):
        return file
    tell(f"seed {seed}: training {variant}, {config.steps} steps")
    models = world.models()
    with torch.inference_mode(False):
        adapter = make_adapter(config, models, pictures.sample(0))
        return loop.train(config, models, pictures, adapter, Group(), resume=bool(begun))
