"""What measuring gives: numbers, a table, a report picture and notes; and how a node shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from .feedback import Note, show


@dataclass(frozen=True, eq=False)
class Measured:
    """What a measuring node hands on: numbers in the order of its outputs, None where there is none
    to give; the table; the report [H, W, 3] uint8; what to say.
    """

    numbers: tuple[float | int | None, ...]
    table: dict[str, Any]
    report: np.ndarray
    notes: list[Note]


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that there are, None if there is none."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def rounded(value: float | int | None) -> float | int | None:
    """Return a number as it stands in the table, with five decimals."""
    return round(value, 5) if isinstance(value, float) else value


def as_number(value: float | int | None) -> float | int:
    """Return what an output hands on: nan, which equals nothing, where there is no number."""
    return math.nan if value is None else value


def hand_on(node: type[io.ComfyNode], measured: Measured) -> io.NodeOutput:
    """Return a measuring node's outputs: its numbers, the table, the report; and show them.

    Programs find the table in the history, under ``pulid_measured``.
    """
    report = torch.from_numpy(measured.report).float()[None] / 255
    shown = {
        "images": ui.PreviewImage(report, cls=node).as_dict()["images"],
        "pulid_measured": [measured.table],
        **show(node, measured.notes),
    }
    table = json.dumps(measured.table, indent=1)
    return io.NodeOutput(*map(as_number, measured.numbers), table, report, ui=shown)
