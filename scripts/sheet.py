"""The demo's sheet: rows of pictures over their captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

HEIGHT = 512
MARGIN, GAP = 32, 20
CAPTION_SIZE, FOOTER_SIZE = 22, 18
PAPER, INK, FAINT, ALARM = "#fbfaf7", "#1c1c1e", "#6a6a70", "#b3401a"
Panel = tuple[Image.Image, str]


def compose(
    rows: Sequence[Sequence[Panel]], notes: Sequence[str], warning: str = "", height: int = HEIGHT
) -> Image.Image:
    """Return rows of pictures at one height over their captions, then notes and a warning.

    A caption of two lines has the second one fainter.
    """
    rows = [
        [(p.resize((round(p.width * height / p.height), height), Image.LANCZOS), c) for p, c in row]
        for row in rows
    ]
    footer = [(note, FAINT) for note in notes] + ([(warning, ALARM)] if warning else [])
    lines = max(caption.count("\n") + 1 for row in rows for _, caption in row)
    step = height + 14 + lines * (CAPTION_SIZE + 6) + 16
    wide = max(sum(p.width + GAP for p, _ in row) - GAP for row in rows)
    low = MARGIN + len(rows) * step
    size = (2 * MARGIN + wide, low + len(footer) * (FOOTER_SIZE + 8) + MARGIN - 8)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = MARGIN, MARGIN + number * step
        for panel, caption in row:
            sheet.paste(panel, (left, top))
            for line, text in enumerate(caption.split("\n")):
                place = (left, top + height + 14 + line * (CAPTION_SIZE + 6))
                draw.text(place, text, FAINT if line else INK, fitting_font(text, panel.width))
            left += panel.width + GAP
    for row, (text, colour) in enumerate(footer):
        place = (MARGIN, low + row * (FOOTER_SIZE + 8))
        draw.text(place, text, colour, ImageFont.load_default(FOOTER_SIZE))
    return sheet


def fitting_font(text: str, width: int) -> ImageFont.ImageFont:
    """Return the caption font, smaller where ``text`` would be wider than ``width``."""
    points = CAPTION_SIZE
    while points > 12 and ImageFont.load_default(points).getlength(text) > width:
        points -= 1
    return ImageFont.load_default(points)
