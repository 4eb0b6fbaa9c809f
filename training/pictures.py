"""Picture files: read whatever they are saved as, cut square, and packed as PNG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class ThrownOut(Exception):
    """A picture is not to be trained on; the text says why."""


def read_picture(content: bytes) -> Image.Image:
    """Return the picture in a file's bytes, upright and in RGB on white, or raise ThrownOut."""
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        elif picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
        return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).split("\n")[0].split(" <")[0][:120]  # PIL shows its own objects
        raise ThrownOut(f"it cannot be opened as a picture ({reason})") from error


def square(size: tuple[int, int], centre: np.ndarray) -> tuple[tuple[int, int], int]:
    """Return corner and side of the largest square in a picture, as near to ``centre`` as it can.

    All in pixels, x before y.
    """
    side = min(size)
    corner = [
        int(np.clip(round(at - side / 2), 0, edge - side))
        for at, edge in zip(centre, size, strict=True)
    ]
    return (corner[0], corner[1]), side


def png(crop: Tensor) -> bytes:
    """Return [H, W, 3] in 0..1 as a PNG file."""
    file = io.BytesIO()
    pixels = (crop * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def from_png(content: Tensor) -> Tensor:
    """Return the picture of a PNG file's bytes: uint8 [n] -> [H, W, 3] in 0..1."""
    with Image.open(io.BytesIO(content.numpy().tobytes())) as picture:
        return torch.from_numpy(np.array(picture)).float() / 255
