"""Adapters of the drawn world, trained by training/ like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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

PEOPLE, VALIDATED = 4096, 16  # people to train on, and to validate with


@dataclass(frozen=True)
class Apprentice:
    """The adapters of one seed, in ``folder``; ``tell`` gets lines of progress."""

    world: World
    folder: Path
    seed: int
    tell: Callable[[str], None]

    @cached_property
    def pictures(self) -> Pictures:
        """The people of all variants."""
        self.tell(f"seed {self.seed}: drawing {PEOPLE} people")
        return album(self.world, PEOPLE, VALIDATED, self.seed)

    def train(self, variant: str) -> Path:
        """Return a variant's PuLID file, trained after those that it goes on from.

        What is there already is gone on from, or left as it is where it is done.
        """
        before, _ = VARIANTS[variant]
        start = self.train(before) if before else None
        own = self.folder / f"seed {self.seed}" / variant.replace(":", "")
        config = recipe(variant, own, self.seed, start)
        begun = all_of(own / "checkpoints")
        if begun and begun[-1].stem.endswith(f"{config.steps:08d}"):
            return own / f"{config.adapter.name}.safetensors"
        self.tell(f"seed {self.seed}: training {variant}, {config.steps} steps")
        models = self.world.models()
        with torch.inference_mode(False):
            adapter = make_adapter(config, models, self.pictures, bool(begun))
            return loop.train(config, models, self.pictures, adapter, Group(), bool(begun))
