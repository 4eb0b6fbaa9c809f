"""People whom nobody was trained on, drawn by an adapter and judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..training.adapter import Adapter
from ..training.models import Models
from ..training.trainable import trainable
from .album import samples
from .judging import Judged, correlation, draw, judge
from .people import HELD_OUT, draw_people, on_another_day
from .pool import SIDE
from .renderer import photo, render
from .world import World

NOISE = 7  # seed of the pictures' noise


class HeldOut:
    """So many people, each with a photo, the prompt of another one, and noise: same for all."""

    def __init__(self, world: World, count: int):
        self.world, self.models = world, world.models()
        self.own = samples(world, count, HELD_OUT)
        turned = [*range(1, count), 0]
        self.prompts = [self.own[i] for i in turned]
        self.people = draw_people(count, HELD_OUT)
        self.said = self.people[turned]
        sitters = on_another_day(self.people, HELD_OUT)
        self.light = sitters.number("light").flatten()  # of the photos
        with torch.no_grad():
            self.sitters = photo(sitters, SIDE)
            self.photos, _ = world.vectors(world.judge)(self.sitters)

    @cached_property
    def ceiling(self) -> float:
        """How alike two drawings of one person are, by the renderer itself."""
        with torch.no_grad():
            drawn, _ = self.world.vectors(self.world.judge)(render(self.people, SIDE))
        return float(torch.cosine_similarity(self.photos, drawn, dim=-1).mean())

    @cached_property
    def plain(self) -> Tensor:
        """The pictures without identity [N, 3, 64, 64]."""
        return self.pictures(None, 0.0)

    def pictures(self, adapter: Adapter | None, weight: float) -> Tensor:
        """Return everybody's picture [N, 3, 64, 64]."""
        with drawing(self.models) as base:
            return draw(self.models, base, adapter, self.own, self.prompts, weight, NOISE)

    def judged(self, adapter: Adapter | None, weight: float) -> Judged:
        """Return each picture's figures."""
        pictures = self.pictures(adapter, weight) if adapter else self.plain
        return judge(self.world, pictures, self.plain, self.photos, self.said)

    def figures(self, judged: Judged) -> dict[str, float]:
        """Return the means, and the standard error of the likeness."""
        count = len(judged.likeness)
        return {
            "likeness": float(judged.likeness.mean()),
            "error": float(judged.likeness.std() / count**0.5),
            "faces": float(judged.faces.mean()),
            "outside": float(judged.outside.mean()),
            "words": float(judged.words.mean()),
            "light": correlation(self.light, judged.light) if judged.light.std() > 0 else 0.0,
        }

    def summary(self, adapter: Adapter) -> dict[str, Any]:
        """Return an adapter's figures at weight 1 beside the bounds."""
        rows = {"at weight 1": adapter, "without identity": None}
        found: dict[str, Any] = {
            name: {k: round(v, 3) for k, v in self.figures(self.judged(one, 1.0)).items()}
            for name, one in rows.items()
        }
        return {**found, "two drawings of one person": round(self.ceiling, 3)}


@contextmanager
def drawing(models: Models) -> Iterator[Any]:
    """Hand out the base to draw with, without gradients."""
    with trainable(models.base, torch.float32, recompute=False) as base, torch.no_grad():
        yield base
