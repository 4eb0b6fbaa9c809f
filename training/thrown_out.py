"""The pictures that are not trained on, shown with their reasons: a contact sheet and a list."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .cache import Cache, Outcome

SIDE, BELOW, ACROSS, ON_A_PAGE = 128, 44, 8, 160
PAPER, INK, FAINT = "#fbfaf7", "#1c1c1e", "#d8d6d0"


def thumbnail(picture: Image.Image) -> bytes:
    """Return a small JPEG of a picture."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()


def write_list(cache: Cache, thrown: Sequence[Outcome]) -> None:
    """Write thrown_out.txt and the pages thrown_out_1.jpg … into the cache."""
    lines = [f"{one.name}: {one.reason}\n" for one in thrown]
    cache.write(cache.folder / "thrown_out.txt", "".join(lines).encode())
    pages = range(0, len(thrown), ON_A_PAGE)
    for number, start in enumerate(pages, 1):
        sheet = draw(cache, thrown[start : start + ON_A_PAGE])
        cache.write(cache.folder / f"thrown_out_{number}.jpg", sheet)
    for old in cache.folder.glob("thrown_out_*.jpg"):
        if int(old.stem.rpartition("_")[2]) > len(pages):
            old.unlink()


def draw(cache: Cache, thrown: Sequence[Outcome]) -> bytes:
    """Return one page as a JPEG."""
    across = min(ACROSS, len(thrown))
    down = -(-len(thrown) // across)
    sheet = Image.new("RGB", (across * (SIDE + 8) + 8, down * (SIDE + BELOW) + 8), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for place, one in enumerate(thrown):
        left, top = 8 + place % across * (SIDE + 8), 8 + place // across * (SIDE + BELOW)
        path = cache.path("thumbs", one.key)
        if one.key and path.is_file():
            with Image.open(path) as small:
                sheet.paste(small, (left + (SIDE - small.width) // 2, top + SIDE - small.height))
        else:
            pen.rectangle((left, top, left + SIDE, top + SIDE), outline=FAINT)
        for row, text in enumerate([one.name[-24:], *wrapped(one.reason)]):
            pen.text((left, top + SIDE + 2 + 11 * row), text, INK, font)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def wrapped(text: str) -> list[str]:
    """Return the beginning of a text in at most two lines that fit under a picture."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 25:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return [line[:27] for line in lines[:2]]
