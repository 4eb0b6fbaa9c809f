"""What a run says about itself: its tables, plot, samples, board and log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .config import Config, Stage
from .distributed import Group
from .metrics import LOSSES, TABLE, Board, Table, draw
from .validate import COLUMNS, Looked

log = logging.getLogger(__name__)
FACELESS = 64  # pictures of the branch in a row without a face, after which a run stops


class Recorder:
    """Keeps each step's figures on the device and reads them back together.

    Of several processes all take part in the means, and the first one writes.
    """

    def __init__(self, config: Config, group: Group):
        self.config, self.group = config, group
        self.folder = config.folder
        self.losses = Table(self.folder / "metrics.csv", TABLE)
        self.people = Table(self.folder / "validation.csv", COLUMNS)
        self.board = Board(None)
        self.waiting: list[tuple[dict[str, Any], list[str], Tensor]] = []
        self.faceless = 0
        self.clock, self.clocked = time.monotonic(), 0

    def begin(self, step: int) -> None:
        """Start or go on with the tables after ``step`` steps."""
        self.clocked = step
        if not self.group.leads:
            return
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        self.losses.begin(step)
        self.people.begin(step)
        if self.config.run.tensorboard:
            self.board = Board(self.folder / "board", step + 1)

    def keep(
        self,
        step: int,
        stage: Stage,
        parts: Sequence[Mapping[str, Tensor]],
        gradient: Tensor,
        rate: float,
    ) -> None:
        """Remember a step's figures without waiting for the device."""
        names = [name for name in (*LOSSES, "faces") if name in parts[0]]
        means = [torch.stack([part[name].float() for part in parts]).mean() for name in names]
        row = {"step": step, "stage": stage.name, "rate": rate}
        pictures = (stage.branch_batch or stage.batch) * stage.accumulate * self.group.size
        row["pictures"] = pictures
        self.waiting.append((row, names, torch.stack([*means, gradient.float()])))

    def read_back(self) -> None:
        """Read what was kept, write it down, and stop the run where something is wrong.

        Raises RuntimeError naming step and loss for values that are not numbers, or if the branch
        has drawn no face for a while.
        """
        waiting, self.waiting = self.waiting, []
        self.group.average([values for _, _, values in waiting])
        for row, names, values in waiting:
            numbers = dict(zip([*names, "gradient"], values.tolist(), strict=True))
            row |= numbers
            if self.group.leads:
                self.losses.add(row)
                self.board.add("train", numbers | {"rate": row["rate"]}, row["step"])
            check(row, numbers)
            self.look_for_faces(row)
        if waiting and self.group.leads:
            self.say(waiting[-1][0])

    def look_for_faces(self, row: Mapping[str, Any]) -> None:
        """Raise RuntimeError if the branch's pictures have had no face for long."""
        if "faces" not in row:
            return
        self.faceless = 0 if row["faces"] > 0 else self.faceless + row["pictures"]
        if self.faceless >= FACELESS:
            raise RuntimeError(
                f"Step {row['step']}, stage {row['stage']}: no face was found in the last "
                f"{self.faceless} pictures of the branch, so L_id teaches nothing. Check with the "
                "sheets in samples/ what it draws: a base that needs more steps wants a few-step "
                "model or LoRA in [model] branch, and prompts have to be of a person's face."
            )

    def say(self, row: Mapping[str, Any]) -> None:
        """Tell how far the run is."""
        now, step = time.monotonic(), row["step"]
        pace = (now - self.clock) / max(1, step - self.clocked)
        self.clock, self.clocked = now, step
        shown = ", ".join(f"{name} {row[name]:.4f}" for name in LOSSES if name in row)
        log.info(
            "step %d of %d, %s: %s (%.2f s a step)",
            *(step, self.config.steps, row["stage"], shown, pace),
        )

    def looked(self, step: int, found: Sequence[Looked], samples: Image.Image) -> None:
        """Write down a validation and its sheet of samples."""
        for one in found:
            row = {"step": step, **vars(one)}
            self.people.add(row)
            numbers = {k: v for k, v in vars(one).items() if k != "weight"}
            self.board.add(f"weight {one.weight:g}", numbers, step)
        samples.save(self.folder / "samples" / f"step_{step:08d}.png")
        self.board.picture("samples", np.array(samples), step)
        best = found[-1]
        alike = "" if best.likeness is None else f"likeness {best.likeness:.3f}, "
        log.info("validation at weight %g: %schange %.1f", best.weight, alike, best.change)

    def plot(self) -> None:
        """Draw the table anew."""
        draw(self.losses.rows(), self.folder / "metrics.png")

    def close(self) -> None:
        """End the board's file."""
        self.board.close()


def check(row: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """Raise RuntimeError for a figure that is not a number."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            what = "gradient" if name == "gradient" else f"loss '{name}'"
            raise RuntimeError(
                f"Step {row['step']}, stage {row['stage']}: the {what} is {value}, not a number. "
                "The run stopped; its last checkpoint is from before. Go on from there with "
                '--resume, with a lower rate, a longer warm-up or precision = "float32".'
            )
