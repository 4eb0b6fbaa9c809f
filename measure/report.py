"""Report pictures: renders with their numbers, and what changed between two pictures.

Pictures are [H, W, 3] RGB uint8; a report is one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..encoders.photo import write
from .similarity import Likeness, mean_similarity

HEIGHT, MARGIN, GAP = 256, 24, 16
WIDEST = 2.5  # of a picture's width to the height it is given
COLUMNS, CELLS = 4, 64  # a report shows the worst ones
PAIR_HEIGHT, PAIRS = 320, 16
BAR = 14
TEXT, SMALL = 18, 14
PAPER, INK, FAINT = (251, 250, 247), (28, 28, 30), (106, 106, 112)
GOOD, FAIR, POOR = (46, 160, 67), (219, 158, 20), (200, 70, 50)
PLAIN = (63, 120, 158)  # of a number whose range is not known
TRACK, RANGE = (226, 224, 218), (196, 222, 200)
FULL = 0.25  # difference that the map shows in white
# black, red, yellow, white: brightness rises all the way, so that it can be read without colours
HEAT = np.array([[0, 0, 0], [150, 20, 20], [240, 180, 40], [255, 255, 255]], float)
FACE = (120, 130, 150)


@dataclass(frozen=True)
class Cell:
    """One picture of a likeness report.

    ``people`` says how alike each person is; ``boxes`` are the picture's faces, in pixels.
    """

    number: int
    picture: np.ndarray
    people: list[Likeness]
    boxes: list[np.ndarray]


@dataclass(frozen=True)
class Pair:
    """One pair of a disruption report: without and with identity, what counts, lines of text."""

    number: int
    plain: np.ndarray
    changed: np.ndarray
    outside: np.ndarray  # bool [H, W]
    difference: float | None
    lines: list[str]


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of the reports."""
    return ImageFont.load_default(size)


def worst_first(cell: Cell) -> tuple[int, float]:
    """Return a key that puts pictures with a missing face first, then the least alike."""
    missing = sum(one.similarity is None for one in cell.people)
    lowest = min((one.similarity for one in cell.people if one.similarity is not None), default=0.0)
    return -missing, lowest


def likeness_report(cells: Sequence[Cell], bounds: tuple[float, float] | None) -> np.ndarray:
    """Return the pictures side by side, worst first, each over a bar with its number.

    bounds: the judge's, as ``similarity.bounds`` gives them.
    """
    shown = sorted(cells, key=worst_first)[:CELLS]
    tiles = [likeness_tile(cell, bounds) for cell in shown]
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    footer = "cosine of face vectors, the bar from 0 to 1"
    if bounds:
        footer += (
            f"; green band: above {bounds[1]}, where this recogniser mostly puts photos of one "
            f"person; tick: {bounds[0]}, below which mostly different people lie"
        )
    if len(cells) > len(shown):
        footer = f"the worst {len(shown)} of {len(cells)} pictures; {footer}"
    return stack(rows, footer)


def likeness_tile(cell: Cell, bounds: tuple[float, float] | None) -> Image.Image:
    """Draw one picture with its faces, number and bar."""
    shrunk, scale = fitted(cell.picture, HEIGHT)
    width = max(120, shrunk.width)
    left = (width - shrunk.width) // 2
    tile = Image.new("RGB", (width, HEIGHT + 2 * TEXT + BAR + 12), PAPER)
    tile.paste(shrunk, (left, 0))
    draw = ImageDraw.Draw(tile)
    for person, one in enumerate(cell.people):
        if one.face is not None:
            box = (cell.boxes[one.face] * scale).clip(0, None) + [left, 0, left, 0]
            colour = colour_of(one.similarity, bounds)
            draw.rectangle([float(v) for v in box], outline=colour, width=2)
            if len(cell.people) > 1:
                text = f"{person}: {one.similarity:.2f}"
                write(draw, text, box.tolist(), colour, font(SMALL), tile.size)
    value = mean_similarity(cell.people)
    missing = sum(one.similarity is None for one in cell.people)
    text = "no face" if value is None else f"{value:.2f}"
    if value is not None and missing:
        text += f", {missing} missing"
    draw.text((0, HEIGHT + 4), f"#{cell.number}", FAINT, font(TEXT))
    draw.text((width, HEIGHT + 4), text, colour_of(value, bounds), font(TEXT), anchor="ra")
    draw_bar(draw, width, HEIGHT + TEXT + 12, value, bounds)
    return tile


def fitted(picture: np.ndarray, height: int) -> tuple[Image.Image, float]:
    """Return a picture ``height`` pixels high, or lower if it is very wide; and its new scale."""
    image = Image.fromarray(picture)
    scale = min(height / image.height, WIDEST * height / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.LANCZOS), scale


def colour_of(similarity: float | None, bounds: tuple[float, float] | None) -> tuple[int, int, int]:
    """Return green in the same-person range, amber between, red below or for no face."""
    if similarity is None:
        return POOR
    if bounds is None:
        return PLAIN
    return GOOD if similarity >= bounds[1] else POOR if similarity < bounds[0] else FAIR


def draw_bar(
    draw: ImageDraw.ImageDraw,
    width: int,
    top: int,
    value: float | None,
    bounds: tuple[float, float] | None,
) -> None:
    """Draw a bar of 0 to 1 with the same-person range; for no face an empty frame."""
    if value is None:
        draw.rectangle((0, top, width - 1, top + BAR), outline=POOR)
        return
    draw.rectangle((0, top, width - 1, top + BAR), fill=TRACK)
    if bounds:
        draw.rectangle((round(bounds[1] * (width - 1)), top, width - 1, top + BAR), fill=RANGE)
    end = round(max(0.0, value) * (width - 1))
    draw.rectangle((0, top + 3, end, top + BAR - 3), fill=colour_of(value, bounds))
    if bounds:
        tick = round(bounds[0] * (width - 1))
        draw.line((tick, top, tick, top + BAR), fill=FAINT)


def stack(rows: Sequence[Sequence[Image.Image]], footer: str) -> np.ndarray:
    """Return tiles in rows on paper, with a line of text below."""
    widths = [sum(t.width for t in row) + GAP * (len(row) - 1) for row in rows]
    heights = [max(t.height for t in row) for row in rows]
    lines = wrapped(footer, max(max(widths), 360))
    width = 2 * MARGIN + max(max(widths), 360)
    height = 2 * MARGIN + sum(heights) + GAP * len(rows) + len(lines) * (SMALL + 4)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for row, high in zip(rows, heights, strict=True):
        left = MARGIN
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width + GAP
        top += high + GAP
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + number * (SMALL + 4)), line, FAINT, font(SMALL))
    return np.array(sheet)


def wrapped(text: str, width: int) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(SMALL).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def heat_map(plain: np.ndarray, changed: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return what changed as brightness, [H, W, 3] uint8; the faces, which do not count, hatched.

    Black is no difference, white a mean difference of the channels of 0.25 or more.
    """
    difference = np.abs(plain.astype(float) - changed.astype(float)).mean(-1) / 255
    level = (difference / FULL).clip(0, 1) * (len(HEAT) - 1)
    channels = [np.interp(level, range(len(HEAT)), HEAT[:, c]) for c in range(3)]
    picture = np.stack(channels, -1)
    rows, columns = np.indices(outside.shape)
    stripes = (rows + columns) // 6 % 2 == 0
    picture[~outside] = np.where(stripes[~outside, None], FACE, np.array(FACE) // 2)
    return picture.round().astype(np.uint8)


def disruption_report(pairs: Sequence[Pair]) -> np.ndarray:
    """Return each pair with its map and numbers, the most disturbed first."""
    order = sorted(pairs, key=lambda pair: -1.0 if pair.difference is None else -pair.difference)
    shown = order[:PAIRS]
    footer = (
        f"map: black = unchanged, white = changed by {FULL:.0%} of the range or more, hatched = "
        "faces with hair and neck, which do not count"
    )
    if len(pairs) > len(shown):
        footer = f"the {len(shown)} most disturbed of {len(pairs)} pairs; {footer}"
    rows = []
    for pair in shown:
        panels = (
            ("without identity", pair.plain),
            ("with identity", pair.changed),
            ("what changed", heat_map(pair.plain, pair.changed, pair.outside)),
        )
        rows.append([*(panel(*one) for one in panels), text_tile(pair)])
    return stack(rows, footer)


def panel(title: str, picture: np.ndarray) -> Image.Image:
    """Draw one picture over its title."""
    shrunk, _ = fitted(picture, PAIR_HEIGHT)
    tile = Image.new("RGB", (max(shrunk.width, 130), PAIR_HEIGHT + TEXT + 8), PAPER)
    tile.paste(shrunk, (0, 0))
    ImageDraw.Draw(tile).text((0, PAIR_HEIGHT + 4), title, FAINT, font(SMALL))
    return tile


def text_tile(pair: Pair) -> Image.Image:
    """Write a pair's numbers."""
    lines = [f"#{pair.number}", *pair.lines]
    width = round(max(font(TEXT).getlength(line) for line in lines)) + 8
    tile = Image.new("RGB", (width, PAIR_HEIGHT), PAPER)
    draw = ImageDraw.Draw(tile)
    for row, line in enumerate(lines):
        draw.text((0, row * (TEXT + 8)), line, INK if row else FAINT, font(TEXT))
    return tile
