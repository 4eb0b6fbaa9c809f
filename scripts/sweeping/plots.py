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
    """Return the plot as PNG: a point for each setting, the front as a line, the best one named.

    bounds: the cosines below which the judge mostly puts two people, and above which one.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 6), dpi=120, layout="constrained")
    there = [one for one in settings if one.similarity is not None and one.disruption is not None]
    single = [r for r in rows if r["similarity"] is not None and r[against] is not None]
    axes.scatter(
        [r[against] for r in single],
        [r["similarity"] for r in single],
        s=9,
        color="#b9b6ae",
        label="one picture",
    )
    axes.scatter(
        [one.disruption for one in there],
        [one.similarity for one in there],
        s=44,
        color="#3f789e",
        zorder=3,
        label="one setting, mean",
    )
    front = sorted((one for one in there if one.front), key=lambda one: one.disruption)
    axes.plot(
        [one.disruption for one in front],
        [one.similarity for one in front],
        color="#b3401a",
        linewidth=1.2,
        zorder=2,
        label="Pareto front",
    )
    for one in there:
        chosen = one is best
        axes.annotate(
            f"{one.name} (recommended)" if chosen else one.name,
            (one.disruption, one.similarity),
            xytext=(7, 5),
            textcoords="offset points",
            fontsize=9 if chosen else 7,
            weight="bold" if chosen else "normal",
            color=INK if one.front else FAINT,
        )
    if best in there:
        place = ([best.disruption], [best.similarity])
        axes.scatter(*place, marker="*", s=260, color="#2ea043", zorder=4, label="recommended")
    lines = ("different people are mostly below", "one person is mostly above")
    for value, text in zip(bounds or (), lines if bounds else (), strict=True):
        axes.axhline(value, color=FAINT, lw=0.8, ls=":")
        axes.annotate(text, (0.995, value), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", fontsize=7, color=FAINT)  # fmt: skip
    if not there:
        place = {"transform": axes.transAxes, "ha": "center"}
        axes.text(0.5, 0.5, "no face was found in any picture", **place)
    axes.set_xlabel(AXES[against])
    axes.set_ylabel("alike: cosine of face vectors (1 = the same photo)")
    axes.margins(x=0.18, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    if there:
        axes.legend(loc="lower right", fontsize=8, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return data.getvalue()


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
