"""One network learns by one loss: steps, averaged weights, and going on after an interruption."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..training.config import Stage
from ..training.optimization import Averaged, clip, rate

DECAY = 0.998  # of the averaged weights
SAVE_EVERY = 200


@dataclass(frozen=True)
class Lesson:
    """How long a network learns, and how fast: batch pictures a step, AdamW's first rate."""

    name: str
    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.01


def learn(
    lesson: Lesson,
    module: nn.Module,
    loss: Callable[[int], Tensor],
    folder: Path,
    tell: Callable[[str], None],
    every: int = SAVE_EVERY,
) -> dict[str, Tensor]:
    """Train ``module`` and return its averaged weights; ``loss`` gets the step's number.

    What is in ``folder`` from before, saved after each ``every`` steps, is gone on from; the same
    numbers come out as without an interruption.
    """
    path = folder / f"{lesson.name}.state.pt"
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 0.0, (0.9, 0.99), weight_decay=lesson.decay)
    averaged = Averaged(module, DECAY)
    begin, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["lesson"] != json.dumps(asdict(lesson)):
            raise ValueError(f"{path} is of other settings. Delete it, or take another folder.")
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.load(state["averaged"])
        begin, spent = state["step"], state["seconds"]
    schedule = Stage(lesson.name, lesson.steps, lesson.rate, "cosine", lesson.warmup)
    start, running = time.monotonic() - spent, None
    for step in range(begin, lesson.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step)
        value = loss(step)
        value.backward()
        clip(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.follow(module, step)
        now = float(value.detach())
        running = now if running is None else 0.98 * running + 0.02 * now
        done = step + 1
        if done % every == 0 or done == lesson.steps:
            seconds = time.monotonic() - start
            tell(
                f"{lesson.name}: step {done} of {lesson.steps}, loss {running:.4f}, {seconds:.0f} s"
            )
            state = {"lesson": json.dumps(asdict(lesson)), "step": done, "seconds": seconds}
            state |= {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
            save(path, {**state, "averaged": averaged.weights})
    return {**module.state_dict(), **averaged.weights}


def save(path: Path, state: dict) -> None:
    """Write a file whole or not at all."""
    other = path.with_suffix(".part")
    torch.save(state, other)
    os.replace(other, path)
