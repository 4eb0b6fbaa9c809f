"""The pictures of a sweep's report: likeness against disruption, and all pictures in a grid."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .results import Setting

AXES = {
    "difference": "changed outside the face: mean difference of pixels (0 = nothing)",
    "structure": "changed outside the face: structure lost, 1 - SSIM (0 = nothing)",
    "scene": "changed outside the face: scene, 1 - cosine of EVA-CLIP (0 = nothing)",
}
THUMB, GAP, LABEL = 192, 10, 190
PAPER, INK, FAINT = "#fbfaf7", "#1c1c1e", "#6a6a70"


def scatter(
    rows: Sequence[Mapping[str, Any]],
    settings: Sequence[Setting],
    best: Setting | None,
    against: str,
    bounds: Sequence[float] | None,
) -> bytes:
    """Return the plot as PNG: a point with its number for each setting, the front as a line.

    bounds: the cosines below which the judge mostly puts two people, and above which one.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 6), dpi=120, layout="constrained")
    single = [(r[against], r["similarity"]) for r in rows]
    points = {n: (one.disruption, one.similarity) for n, one in enumerate(settings, 1)}
    there = {n: point for n, point in points.items() if None not in point}
    front = sorted({points[n] for n, one in enumerate(settings, 1) if one.front})
    draw_points(axes, [point for point in single if None not in point], list(there.values()), front)
    for place in dict.fromkeys(there.values()):  # settings that made the same pictures share one
        numbers = ", ".join(str(n) for n, point in there.items() if point == place)
        text = {"fontsize": 9, "color": INK if place in front else FAINT, "zorder": 5}
        axes.annotate(numbers, place, xytext=(6, 5), textcoords="offset points", **text)
    if best is not None:
        style = {"marker": "*", "s": 260, "color": "#2ea043", "zorder": 4, "label": "recommended"}
        axes.scatter([best.disruption], [best.similarity], **style)
        number = next(n for n, one in enumerate(settings, 1) if one is best)
        axes.set_title(f"recommended: {number}, {best.name}", loc="left", fontsize=12)
    axes.margins(x=0.1, y=0.12)
    draw_bounds(axes, bounds, [point[1] for point in single if None not in point])
    axes.set_xlabel(AXES[against])
    axes.set_ylabel("alike: cosine of face vectors (1 = the same photo)")
    axes.spines[["top", "right"]].set_visible(False)
    if there:
        axes.legend(loc="best", fontsize=8)
    else:
        place = {"transform": axes.transAxes, "ha": "center"}
        axes.text(0.5, 0.5, "no face was found in any picture", **place)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return data.getvalue()


def draw_points(
    axes: Any,
    single: Sequence[tuple[float, float]],
    means: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
) -> None:
    """Draw points of (disruption, likeness): single pictures, settings, and their front."""
    styles = {
        "one picture": {"s": 9, "color": "#b9b6ae"},
        "one setting, mean": {"s": 44, "color": "#3f789e", "zorder": 3},
    }
    for (label, style), points in zip(styles.items(), (single, means), strict=True):
        axes.scatter([x for x, _ in points], [y for _, y in points], label=label, **style)
    line = {"color": "#b3401a", "linewidth": 1.2, "zorder": 2, "label": "Pareto front"}
    axes.plot([x for x, _ in front], [y for _, y in front], **line)


def draw_bounds(axes: Any, bounds: Sequence[float] | None, alike: Sequence[float]) -> None:
    """Draw the judge's range where it is near the points; do not squeeze them for its sake."""
    if not alike:
        return
    low, high = min(alike), max(alike)
    near = max(0.05, 0.5 * (high - low))
    lines = ("different people are mostly below", "one person is mostly above")
    named = dict(zip(bounds or (), lines, strict=False))
    shown = [value for value in named if low - near < value < high + near]
    low, high = min([low, *shown]), max([high, *shown])
    room = max(0.05, 0.12 * (high - low))
    axes.set_ylim(low - room, high + room)
    for value in shown:
        axes.axhline(value, color=FAINT, lw=0.8, ls=":")
        where = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axes.annotate(named[value], (0.995, value), fontsize=7, color=FAINT, **where)


def grid(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], folder: Path, best: Setting | None
) -> bytes:
    """Return every picture as JPEG: for each photo a row without identity, then one per setting."""
    photos = list(dict.fromkeys(row["photo"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    lines = []
    for photo in photos:
        own = [row for row in rows if row["photo"] == photo]
        by_seed = {row["seed"]: row for row in own}
        lines.append(
            (f"{photo or 'identity'}\nwithout", [by_seed[s]["without"] for s in seeds], None)
        )
        for values in dict.fromkeys(tuple(row[name] for name in names) for row in own):
            cells = {r["seed"]: r for r in own if tuple(r[name] for name in names) == values}
            setting = dict(zip(names, values, strict=True))
            label = "\n".join(f"{key} {value}" for key, value in setting.items()) or "as it is"
            if best is not None and setting == dict(best.values):
                label += "\nrecommended"
            lines.append((label, [cells[s]["picture"] for s in seeds], [cells[s] for s in seeds]))
    high = THUMB + 22
    size = (LABEL + len(seeds) * (THUMB + GAP) + GAP, 40 + len(lines) * (high + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    for column, seed in enumerate(seeds):
        draw.text((LABEL + column * (THUMB + GAP), 12), f"seed {seed}", FAINT, small)
    for row, (label, files, numbers) in enumerate(lines):
        top = 40 + row * (high + GAP)
        draw.text((14, top), label, INK, font)
        for column, file in enumerate(files):
            left = LABEL + column * (THUMB + GAP)
            sheet.paste(thumbnail(folder / file), (left, top))
            if numbers:
                draw.text((left, top + THUMB + 4), caption(numbers[column]), FAINT, small)
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=88)
    return data.getvalue()


def caption(row: Mapping[str, Any]) -> str:
    """Return a picture's two numbers."""
    alike = "no face" if row["similarity"] is None else f"alike {row['similarity']:.2f}"
    changed = "" if row["difference"] is None else f"   changed {row['difference']:.3f}"
    return alike + changed


def thumbnail(path: Path) -> Image.Image:
    """Return a picture within a square of 192 pixels."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((THUMB, THUMB), Image.LANCZOS)
    return small
