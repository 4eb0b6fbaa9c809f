"""The table of a sweep: a row for each picture, settings compared, the front, and which to take."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .plan import Cell

if TYPE_CHECKING:  # a sweep reads its options before it is in the host's interpreter
    from .folder import Folder

LIKENESS = ("similarity", "missing")
DISRUPTION = ("difference", "structure", "scene", "face_overlap", "face_size", "head_turn")
AGAINST = DISRUPTION[:3]  # what likeness can be plotted against: 0 = undisturbed


@dataclass(frozen=True)
class Setting:
    """One setting, over all its photos and seeds.

    ``similarity`` is the mean where a face was found, None if nowhere; ``disruption`` the mean of
    what was asked for; ``missing`` counts pictures without a face. ``front``: no other setting is
    better in one of the two and not worse in the other.
    """

    values: Mapping[str, Any]
    pictures: int
    similarity: float | None
    disruption: float | None
    missing: int
    front: bool = False

    @property
    def name(self) -> str:
        """Return the setting as people write it."""
        return ", ".join(f"{key} {value}" for key, value in self.values.items()) or "as it is"


def rows_of(cells: Sequence[Cell], folder: Folder) -> list[dict[str, Any]]:
    """Return the table: one row for each picture."""
    rows = []
    for one in cells:
        numbers = folder.numbers(one)
        alike, disturbed = numbers["alike"], numbers["disturbed"]
        rows.append(
            {
                "photo": one.photo.name if one.photo else "",
                **one.settings,
                "seed": one.seed,
                **{name: alike[name] for name in LIKENESS},
                **{name: disturbed[name] for name in DISRUPTION},
                "picture": folder.picture(one.picture).relative_to(folder.path).as_posix(),
                "without": folder.picture(one.plain).relative_to(folder.path).as_posix(),
            }
        )
    return rows


def settings_of(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], against: str
) -> list[Setting]:
    """Return the settings in the order of the sweep, the front marked."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    found = [
        Setting(
            values=dict(zip(names, values, strict=True)),
            pictures=len(group),
            similarity=mean([row["similarity"] for row in group]),
            disruption=mean([row[against] for row in group]),
            missing=sum(row["missing"] > 0 for row in group),
        )
        for values, group in groups.items()
    ]
    on_front = pareto([(one.similarity, one.disruption) for one in found])
    return [
        Setting(**{**vars(one), "front": mark}) for one, mark in zip(found, on_front, strict=True)
    ]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers that there are."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def pareto(points: Sequence[tuple[float | None, float | None]]) -> list[bool]:
    """Say which (likeness, disruption) no other beats: more alike and no more disturbed, or as
    alike and less disturbed. A point with None is on no front.
    """

    def beats(one: tuple, other: tuple) -> bool:
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    whole = [point for point in points if None not in point]
    return [None not in p and not any(beats(other, p) for other in whole) for p in points]


def recommended(settings: Sequence[Setting]) -> Setting | None:
    """Return the setting of the front nearest to most alike and least disturbed at once.

    Both are scaled to the range of the front. Settings that lost a face are taken only if all did.
    """
    front = [one for one in settings if one.front]
    front = [one for one in front if not one.missing] or front
    if not front:
        return None
    likeness = [one.similarity for one in front]
    disruption = [one.disruption for one in front]

    def distance(one: Setting) -> float:
        alike = share(max(likeness) - one.similarity, max(likeness) - min(likeness))
        disturbed = share(one.disruption - min(disruption), max(disruption) - min(disruption))
        return math.hypot(alike, disturbed)

    return min(front, key=distance)


def share(part: float, whole: float) -> float:
    """Return ``part`` of ``whole``, 0 where there is nothing to share."""
    return part / whole if whole else 0.0


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a spreadsheet; a number that does not exist is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
