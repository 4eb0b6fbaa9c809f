"""One network learns by one loss: steps, averaged weights, and going on after an interruption."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..training.checkpoints import Checkpoint, all_of, load, save
from ..training.config import Optimizer, Stage
from ..training.optimization import Averaged, arguments, clip, optimizer_class, rate

DECAY = 0.998  # of the averaged weights
SAVE_EVERY = 200


@dataclass(frozen=True)
class Lesson:
    """How long a network learns, and how fast: batch pictures a step, the optimizer's rate."""

    name: str
    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.01
    kind: str = "adamw"  # or "muon"

    def digest(self) -> str:
        """Return a fingerprint of the settings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


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
    numbers come out as without an interruption. Raises ValueError where that is of other settings.
    """
    kept = folder / lesson.name
    parameters = [p for p in module.parameters() if p.requires_grad]
    settings = Optimizer(lesson.kind, weight_decay=lesson.decay)
    optimizer = optimizer_class(settings)(parameters, **arguments(settings))
    averaged = Averaged(module, DECAY)
    begin = 0
    if found := all_of(kept):
        state = load(found[-1], lesson.digest())
        module.load_state_dict(state.weights, strict=False)
        optimizer.load_state_dict(state.optimizer)
        averaged.load(state.averaged)
        begin = state.step
    schedule = Stage(lesson.name, lesson.steps, lesson.rate, "cosine", lesson.warmup)
    start, running = time.monotonic(), None
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
            where = f"step {done} of {lesson.steps}"
            tell(f"{lesson.name}: {where}, loss {running:.4f}, {seconds:.0f} s")
            own = dict(module.named_parameters())
            state = (done, 0, lesson.digest(), own, averaged.weights, optimizer.state_dict())
            save(Checkpoint(*state), kept, 1)
    return {**module.state_dict(), **averaged.weights}
