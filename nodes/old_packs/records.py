"""What a file's records hold, whatever was put there, and where on the canvas there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Of added loaders, in pixels; a step has room for the title.
WIDTH, HEIGHT, STEP = 270, 60, 130
Box = tuple[float, float, float, float]  # left, top, width and height, in pixels


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def is_id(value: Any) -> bool:
    """Return whether a node's or link's id can be one."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def pair(value: Any, usual: tuple[float, float]) -> list[float]:
    """Return a place or size, which older files keep as an object with the keys 0 and 1."""
    found = [value.get("0"), value.get("1")] if isinstance(value, dict) else as_list(value)[:2]
    fine = len(found) == 2 and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in found
    )
    return found if fine else list(usual)


def free_place(taken: Sequence[Box], x: float, y: float, up: bool) -> list[float]:
    """Return the place at or above (or below) ``x``, ``y`` where no node lies upon an added one."""
    gap = STEP - HEIGHT
    for _ in taken:  # each node is passed once; an absurd place in a file ends it too
        blocking = [
            box
            for box in taken
            if box[0] < x + WIDTH
            and x < box[0] + box[2]
            and box[1] < y + STEP
            and y < box[1] + box[3] + gap
        ]
        if not blocking:
            break
        y = min(b[1] for b in blocking) - STEP if up else max(b[1] + b[3] for b in blocking) + gap
    return [x, y]
