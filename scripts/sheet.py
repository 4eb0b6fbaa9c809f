"""The demo's sheet: pictures side by side with captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

HEIGHT = 512
MARGIN, GAP = 32, 20
CAPTION_SIZE, FOOTER_SIZE = 22, 18
PAPER, INK, FAINT, ALARM = "#fbfaf7", "#1c1c1e", "#6a6a70", "#b3401a"


def compose(
    pictures: Sequence[Image.Image], captions: Sequence[str], settings: str, warning: str = ""
) -> Image.Image:
    """Return ``pictures`` at one height over their captions, then the settings and a warning."""
    panels = [
        p.resize((round(p.width * HEIGHT / p.height), HEIGHT), Image.LANCZOS) for p in pictures
    ]
    lines = [(settings, FAINT)] + ([(warning, ALARM)] if warning else [])
    width = 2 * MARGIN + sum(p.width for p in panels) + GAP * (len(panels) - 1)
    below = MARGIN + HEIGHT + 14
    height = below + CAPTION_SIZE + 22 + len(lines) * (FOOTER_SIZE + 8) + MARGIN - 8
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = MARGIN
    for panel, caption in zip(panels, captions, strict=True):
        sheet.paste(panel, (left, MARGIN))
        draw.text((left, below), caption, INK, fitting_font(caption, panel.width))
        left += panel.width + GAP
    for row, (text, colour) in enumerate(lines):
        top = below + CAPTION_SIZE + 22 + row * (FOOTER_SIZE + 8)
        draw.text((MARGIN, top), text, colour, ImageFont.load_default(FOOTER_SIZE))
    return sheet


def fitting_font(text: str, width: int) -> ImageFont.ImageFont:
    """Return the caption font, smaller where ``text`` would be wider than ``width``."""
    points = CAPTION_SIZE
    while points > 12 and ImageFont.load_default(points).getlength(text) > width:
        points -= 1
    return ImageFont.load_default(points)
