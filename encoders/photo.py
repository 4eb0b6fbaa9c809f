"""Photos in and out: a ComfyUI image for the detector, and the numbered boxes drawn on it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .detection import Face

LONG_EDGE = 1024
BAND = 1 << 20  # values that are converted at a time
CHOSEN, OTHER = (46, 204, 64), (255, 200, 0)


def prepare_photo(image: torch.Tensor) -> np.ndarray:
    """Turn one ComfyUI image [H, W, C] in 0..1 into an RGB uint8 picture, long edge at most 1024.

    C is 1 (grey), 3 or 4; a transparent background becomes white. Raises ValueError for NaN,
    infinite values and other shapes.
    """
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(
            f"expected an image [height, width, 1, 3 or 4 channels], found {list(image.shape)}"
        )
    pixels = Image.fromarray(to_bytes(image.detach()))
    shrink = LONG_EDGE / max(pixels.size)
    if shrink < 1:
        size = [max(1, round(edge * shrink)) for edge in pixels.size]
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    return np.array(pixels)


def to_bytes(image: torch.Tensor) -> np.ndarray:
    """Return [H, W, C] in 0..1 as [H, W, 3] uint8, on white where it is transparent.

    Raises ValueError for NaN or infinite values. It works in bands, so that a photo of 100
    megapixels is never held in float a second time.
    """
    height, width, channels = image.shape
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, BAND // (width * channels))
    for top in range(0, height, rows):
        band = image[top : top + rows].float().cpu()
        if not torch.isfinite(band).all():
            raise ValueError(
                "it holds NaN or infinite values; a node before this one produced them"
            )
        band = band.clamp(0, 1)
        if channels == 4:
            colour, alpha = band[..., :3], band[..., 3:]
            band = colour * alpha + (1 - alpha)
        pixels[top : top + rows] = band.mul(255).round().to(torch.uint8).numpy()
    return pixels


def annotate(photo: np.ndarray, faces: tuple[Face, ...], chosen: int | None) -> torch.Tensor:
    """Draw each face's box with its index in the order and its score; the chosen one is green.

    Returns [H, W, 3] in 0..1.
    """
    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture)
    unit = max(1, max(photo.shape[:2]) // 256)
    font = ImageFont.load_default(size=max(14, 5 * unit))
    # The chosen face is drawn last, above its neighbours.
    for index in sorted(range(len(faces)), key=lambda one: one == chosen):
        colour = CHOSEN if index == chosen else OTHER
        box = faces[index].box.round().tolist()
        draw.rectangle(box, outline=colour, width=2 * unit if index == chosen else unit)
        write(draw, f"#{index}  {faces[index].score:.2f}", box, colour, font, picture.size)
    if not faces:
        write(draw, "no face", [0, 0, 0, 0], OTHER, font, picture.size)
    return torch.from_numpy(np.array(picture)).float() / 255


def write(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: list[float],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
) -> None:
    """Write ``text`` on a label above ``box``, or inside it if there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 6, bottom - top + 6
    x = min(max(box[0], 0), max(size[0] - wide, 0))
    y = box[1] - high if box[1] >= high else max(box[1], 0)
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), text, fill=(0, 0, 0), font=font)
