"""A measured row: its records, what was wanted of them, and both as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How to measure: ``quick`` takes fewer sizes and rounds."""

    quick: bool

    def pick(self, quick: Any, full: Any) -> Any:
        """Return the value for this kind of run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Column:
    """A column of a row's table; ``form`` formats one number (ms, MB and so on are scaled)."""

    key: str
    heading: str
    form: str = "{}"
    scale: float = 1.0


@dataclass(frozen=True)
class Check:
    """A wanted figure: ``value`` has to be on the ``side`` (at least, at most) of ``limit``."""

    text: str
    value: float
    side: str
    limit: float

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.side == "at least" else self.value <= self.limit


@dataclass(frozen=True)
class Row:
    """One subject of the bench."""

    title: str
    note: str
    columns: list[Column]
    records: list[dict[str, Any]]
    checks: list[Check] = field(default_factory=list)


def from_json(data: dict[str, Any]) -> Row:
    """Return the Row that ``dataclasses.asdict`` and JSON were made of."""
    return Row(
        data["title"],
        data["note"],
        [Column(**c) for c in data["columns"]],
        data["records"],
        [Check(**c) for c in data["checks"]],
    )


def row_text(number: int, row: Row) -> str:
    """Return a row as a section of Markdown that reads well as plain text."""
    table = [[cell(record.get(c.key), c) for c in row.columns] for record in row.records]
    parts = (
        f"### {number}. {row.title}",
        row.note,
        aligned([c.heading for c in row.columns], table),
    )
    return "\n\n".join(parts)


def checks_text(checks: Sequence[Check]) -> str:
    """Return the wanted figures as a Markdown table."""
    lines = [
        [c.text, f"{c.side} {c.limit:g}", f"{c.value:.3g}", "yes" if c.met else "NO"]
        for c in checks
    ]
    return aligned(["wanted", "limit", "found", "met"], lines)


def cell(value: Any, column: Column) -> str:
    """Return one cell; a spread shows as median (lower quartile to upper quartile)."""
    if value is None:
        return ""
    if isinstance(value, dict):
        parts = [column.form.format(value[k] * column.scale) for k in ("median", "low", "high")]
        return f"{parts[0]} ({parts[1]} to {parts[2]})"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return column.form.format(value * column.scale)
    return str(value)


def aligned(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up, text to the left and numbers to the right."""
    number = [
        bool(lines) and all(not line[i] or line[i][0] in "-0123456789" for line in lines)
        for i in range(len(headings))
    ]
    widths = [max(3, *(len(line[i]) for line in (headings, *lines))) for i in range(len(headings))]

    def joined(cells: Sequence[str]) -> str:
        padded = [
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, number, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if n else "-") for w, n in zip(widths, number, strict=True)]
    return "\n".join([joined(headings), joined(rule), *map(joined, lines)])


def draw(records: Sequence[dict[str, Any]]) -> str:
    """Return an SVG of the virtual card's row: bytes that identity moves, ours and the authors'."""
    left, right, high, step = 190, 760, 70, 52
    scale = (right - left) / max(r["authors_bytes"] for r in records)
    size = f"0 0 900 {high + step * len(records) + 10}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-size="13" '
        'font-family="system-ui, sans-serif" fill="#1c1c1c">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        label(20, 30, "What identity moves in one forward, read and written, GB", bold=True),
        label(right, 30, "the authors' formula", "#c2410c", "end"),
        label(right + 20, 30, "ours", "#0f766e"),
    ]
    for i, record in enumerate(records):
        top = high + step * i
        out.append(label(left - 10, top + 18, record["case"], anchor="end"))
        for shift, key, colour in ((0, "authors_bytes", "#c2410c"), (18, "bytes", "#0f766e")):
            wide = record[key] * scale
            out.append(
                f'<rect x="{left}" y="{top + shift - 2}" width="{wide:.1f}" height="15" '
                f'fill="{colour}"/>'
            )
            out.append(label(left + wide + 6, top + shift + 10, f"{record[key] / 1e9:.1f}"))
    return "\n".join([*out, "</svg>", ""])


def label(
    x: float, y: float, words: str, fill: str = "#1c1c1c", anchor: str = "start", bold: bool = False
) -> str:
    """Return one line of text of an SVG."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}"{weight}>{words}</text>'
    )
