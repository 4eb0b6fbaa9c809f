"""The plot beside BENCHMARKS.md, drawn as SVG: time against tokens, and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 960, 400
INK, GREY, GRID = "#1c1c1c", "#6b6b6b", "#dddddd"
THEIRS, OURS = "#c2410c", "#0f766e"
THEIRS_MANY, OURS_MANY = "#eba27e", "#7cc4ba"
PARTS = (
    ("layers", "cross-attention", OURS),
    ("encoder", "ID encoder", "#d97706"),
    ("eva", "EVA-CLIP", "#e9b44c"),
    ("faces", "face models", "#b8b8b8"),
)


def draw(rows: dict) -> str | None:
    """Return the SVG of a run's rows 1 and 5; None where one of them is missing."""
    if 1 not in rows or 5 not in rows:
        return None
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">'
    )
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    parts = [head, ground, *time_panel(rows[1]["records"]), *memory_panel(rows[5]["records"])]
    return "\n".join([*parts, "</svg>", ""])


def time_panel(records: list[dict]) -> list[str]:
    """Return the left half: one layer's time against image tokens, float32 on the CPU."""
    mine = [r for r in records if r["device"] == "cpu" and r["dtype"] == "float32"]
    lines = []
    for count, theirs, ours in ((32, THEIRS, OURS), (128, THEIRS_MANY, OURS_MANY)):
        some = sorted((r for r in mine if r["id_tokens"] == count), key=lambda r: r["tokens"])
        for who, key, colour in (
            ("authors", "authors_seconds", theirs),
            ("ours", "ours_seconds", ours),
        ):
            points = [(r["tokens"], r[key]) for r in some]
            lines.append((f"{who}, {count} ID tokens", colour, points))
    top = max(value["high"] for _, _, points in lines for _, value in points)
    most = max(tokens for _, _, points in lines for tokens, _ in points)
    left, right, high, low = 70, 440, 60, 330
    unit = nice_step(top)

    def x(tokens: float) -> float:
        return left + (right - left) * tokens / most

    def y(value: float) -> float:
        return low - (low - high) * value / (unit * math.ceil(top / unit))

    out = [text(left, 30, "One identity layer, float32 on the CPU", size=15, bold=True)]
    for i in range(math.ceil(top / unit) + 1):
        out.append(line([(left, y(i * unit)), (right, y(i * unit))], GRID, 1))
        out.append(text(left - 8, y(i * unit) + 4, f"{i * unit:g} s", GREY, anchor="end"))
    for tokens, _ in lines[0][2]:
        out.append(text(x(tokens), low + 18, str(tokens), GREY, anchor="middle"))
    out.append(text((left + right) / 2, low + 38, "image tokens", GREY, anchor="middle"))
    for i, (name, colour, points) in enumerate(lines):
        out.append(line([(x(n), y(v["median"])) for n, v in points], colour, 2.5))
        for n, v in points:
            out.append(line([(x(n), y(v["low"])), (x(n), y(v["high"]))], colour, 5))
            out.append(f'<circle cx="{x(n):.1f}" cy="{y(v["median"]):.1f}" r="4" fill="{colour}"/>')
        out.append(line([(left + 12, 66 + 18 * i), (left + 34, 66 + 18 * i)], colour, 2.5))
        out.append(text(left + 40, 70 + 18 * i, name))
    return out


def memory_panel(records: list[dict]) -> list[str]:
    """Return the right half: bytes on the device while sampling, by part."""
    left, right, high, step = 520, 930, 70, 46
    names = ["all of it stays"] + [
        f"ours, {r['people']} {'identity' if r['people'] == 1 else 'identities'}"
        + (" + zero identity" if r["unconditional"] != "none" else "")
        for r in records[1:]
    ]
    scale = (right - left) / max(r["total"] for r in records)
    out = [text(left, 30, "On the device while sampling, 16 bit", size=15, bold=True)]
    for i, (name, record) in enumerate(zip(names, records, strict=True)):
        top = high + step * i
        out.append(text(left, top, f"{name}: {record['total'] / 1e6:,.0f} MB"))
        at = float(left)
        for key, _, colour in PARTS:
            wide = record[key] * scale
            out.append(
                f'<rect x="{at:.1f}" y="{top + 6}" width="{wide:.1f}" height="16" fill="{colour}"/>'
            )
            at += wide
    at = left
    for _, name, colour in PARTS:
        out.append(f'<rect x="{at}" y="368" width="12" height="12" fill="{colour}"/>')
        out.append(text(at + 17, 379, name, GREY))
        at += 30 + 7 * len(name)
    return out


def nice_step(top: float) -> float:
    """Return a round distance for about five grid lines up to ``top``."""
    power = 10 ** math.floor(math.log10(top / 4))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= top / 5)


def text(
    x: float,
    y: float,
    words: str,
    colour: str = INK,
    anchor: str = "start",
    size: int = 12,
    bold: bool = False,
) -> str:
    """Return one line of text."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" '
        f'font-size="{size}"{weight}>{words}</text>'
    )


def line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    """Return a line through ``points``."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
        'stroke-linecap="round"/>'
    )
