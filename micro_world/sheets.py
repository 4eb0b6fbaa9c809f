"""Pictures side by side with a line of text above each column."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

PANEL, BAND, GAP = 192, 26, 6
PAPER, INK = "#fbfaf7", "#1c1c1e"


def sheet(columns: Mapping[str, Tensor], panel: int = PANEL) -> Image.Image:
    """Return pictures [N, 3, H, W] in 0..1 as one, a column for each name, enlarged."""
    rows = max(len(pictures) for pictures in columns.values())
    page = Image.new(
        "RGB", ((panel + GAP) * len(columns) + GAP, BAND + (panel + GAP) * rows), PAPER
    )
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for column, (name, pictures) in enumerate(columns.items()):
        left = GAP + column * (panel + GAP)
        pen.text((left, 5), name, INK, font)
        large = interpolate(pictures.clamp(0, 1), (panel, panel), mode="bicubic").clamp(0, 1)
        for row, picture in enumerate((255 * large).round().byte().movedim(1, -1).numpy()):
            page.paste(Image.fromarray(picture), (left, BAND + row * (panel + GAP)))
    return page
