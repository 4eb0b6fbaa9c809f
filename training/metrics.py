"""A run's figures: metrics.csv, a plot of it, and tensorboard where it is wanted.

The table holds what the run computed and nothing of the clock, so that two runs can be compared.
"""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .packages import require

FIRST = ("step", "stage")
LOSSES = ("total", "diffusion", "id", "semantic", "layout")
TABLE = (*FIRST, *LOSSES, "faces", "gradient", "rate")
COLOURS = {"total": "#1c1c1e", "diffusion": "#2b6cb0", "id": "#c05621", "semantic": "#2f855a"}


class Table:
    """A CSV file of rows by step. Numbers are written so that they read back to the last bit."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path, self.columns = path, tuple(columns)

    def begin(self, step: int) -> None:
        """Make the file, or keep the rows up to ``step`` of the one that is there."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        text = [",".join(self.columns), *(self.line(row) for row in rows)]
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text("\n".join(text) + "\n", encoding="utf-8", newline="\n")
        scratch.replace(self.path)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; what it does not have stays empty."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(self.line(row) + "\n")

    def line(self, row: Mapping[str, Any]) -> str:
        """Return a row as text."""
        return ",".join("" if row.get(c) is None else str(row[c]) for c in self.columns)

    def rows(self) -> list[dict[str, str]]:
        """Return the rows; half a line at the end is left out."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [row for row in csv.DictReader(whole) if None not in row.values()]


class Board:
    """tensorboard's event files, or nothing."""

    def __init__(self, folder: Path | None, step: int = 0):
        self.writer = None
        if folder is not None:
            require("tensorboard", "[run] tensorboard = true")
            board = importlib.import_module("torch.utils.tensorboard")
            self.writer = board.SummaryWriter(str(folder), purge_step=step or None)

    def add(self, group: str, row: Mapping[str, Any], step: int) -> None:
        """Add a row's numbers."""
        if self.writer is not None:
            for name, value in row.items():
                if isinstance(value, float) and math.isfinite(value):
                    self.writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, image: Any, step: int) -> None:
        """Add a picture [H, W, 3] of uint8."""
        if self.writer is not None:
            self.writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Bring what is left to the disk."""
        if self.writer is not None:
            self.writer.close()


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw the losses over the steps, a panel for each, stages apart; nothing without rows."""
    panels = [c for c in (*LOSSES, "gradient") if any(row[c] for row in rows)]
    if not panels:
        return
    figure_module = require("matplotlib.figure", "The plot of a training run")
    figure = figure_module.Figure(figsize=(8, 1.9 * len(panels) + 0.4), layout="constrained")
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    starts = [
        int(b["step"]) for a, b in zip(rows, rows[1:], strict=False) if a["stage"] != b["stage"]
    ]
    for axes, name in zip(every, panels, strict=True):
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=COLOURS.get(name, "#6b46c1"), alpha=0.35, linewidth=0.8)
        axes.plot(steps, smooth(values), color=COLOURS.get(name, "#6b46c1"), linewidth=1.5)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        for start in starts:
            axes.axvline(start, color="#999", linewidth=0.8, linestyle=":")
    every[-1].set_xlabel("step")
    scratch = path.with_name(f".{path.name}")
    figure.savefig(scratch, dpi=100, format="png")
    scratch.replace(path)


def smooth(values: Sequence[float]) -> list[float]:
    """Return the running mean of a series; the last twentieth of it counts most."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    found, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(mean / weight)
    return found
