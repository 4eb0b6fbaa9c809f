"""Where an identity acts: masks and regions in pixels, resized to the image tokens of a forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise_mask(mask: Tensor | None) -> Tensor | None:
    """Return a MASK of any shape as [M, H, W] float32 in 0..1, None if it is None or all ones.

    Raises ValueError for a mask without pixels or with NaN or infinite values.
    """
    if mask is None:
        return None
    if mask.ndim < 2 or 0 in mask.shape:
        raise ValueError(
            f"attn_mask has shape {list(mask.shape)}, expected [batch, height, width]."
        )
    mask = mask.float().reshape(-1, *mask.shape[-2:])
    if not torch.isfinite(mask).all():
        raise ValueError("attn_mask has values that are not numbers (NaN or infinite).")
    mask = mask.clamp(0, 1)
    return None if bool((mask == 1).all()) else mask


# left, top, width, height as fractions of the image
REGIONS: dict[str, tuple[float, float, float, float]] = {
    "whole picture": (0.0, 0.0, 1.0, 1.0),
    "left half": (0.0, 0.0, 0.5, 1.0),
    "right half": (0.5, 0.0, 0.5, 1.0),
    "top half": (0.0, 0.0, 1.0, 0.5),
    "bottom half": (0.0, 0.5, 1.0, 0.5),
}
BOX = "box"  # the region that stands in region_box
REGION_SIDE = 512  # pixels of a region's mask where no attn_mask sets the size


def in_region(mask: Tensor | None, region: str, box: str) -> Tensor | None:
    """Return ``mask`` [M, H, W] limited to a region of the image; None for the whole image.

    ``region`` is one of REGIONS, or BOX for ``box``: left, top, width and height in percent.
    Pixels on the edge get the fraction that is inside. Raises ValueError for an unknown region.
    """
    if region not in (*REGIONS, BOX):
        raise ValueError(f"region is '{region}', expected one of {', '.join((*REGIONS, BOX))}.")
    left, top, width, height = read_box(box) if region == BOX else REGIONS[region]
    if (left, top, width, height) == REGIONS["whole picture"]:
        return mask
    rows, columns = (REGION_SIDE, REGION_SIDE) if mask is None else mask.shape[-2:]

    def inside(first: float, length: float, size: int) -> Tensor:
        start, end = first * size, (first + length) * size
        pixels = torch.arange(size, dtype=torch.float32)
        return ((pixels + 1).clamp(max=end) - pixels.clamp(min=start)).clamp(0, 1)

    part = inside(top, height, rows)[None, :, None] * inside(left, width, columns)
    return part if mask is None else mask * part


def read_box(text: str) -> tuple[float, float, float, float]:
    """Return left, top, width and height as fractions; ValueError if they are outside the image."""
    try:
        box = [float(part.strip().removesuffix("%")) / 100 for part in text.split(",")]
        left, top, width, height = box
    except ValueError:
        box = []
    if not box or not (0 <= left < 1 and 0 <= top < 1 and min(width, height) > 0):
        raise ValueError(
            f"region_box is '{text}', expected left, top, width and height in percent of the "
            "picture, such as 50, 0, 50, 100 for its right half."
        )
    return left, top, min(width, 1 - left), min(height, 1 - top)


def to_tokens(
    mask: Tensor,
    latent: tuple[int, int],
    grid: tuple[int, int],
    area: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """mask [M, H, W] -> [M, N, 1]: its mean over each image token of a grid, N = rows * columns.

    ``latent`` is the image's (h, w), ``area`` the part (h, w, top, left) that the forward covers.
    Shrinking averages, so soft masks stay soft.
    """
    size = mask.shape[-2:]
    grows = latent[0] > size[0] or latent[1] > size[1]
    mask = F.interpolate(mask[:, None], latent, mode="bilinear" if grows else "area")
    if area is not None:
        height, width, top, left = area
        mask = mask[..., top : top + height, left : left + width]
    # models pad what their tokens do not divide, or round up in each convolution that halves
    patch = [-(-s // g) for s, g in zip(mask.shape[-2:], grid, strict=True)]
    pad = [p * g - s for p, g, s in zip(patch, grid, mask.shape[-2:], strict=True)]
    if all(space < p for space, p in zip(pad, patch, strict=True)):
        mask = F.pad(mask, (0, pad[1], 0, pad[0]), mode="replicate")
    mask = F.adaptive_avg_pool2d(mask, grid)
    return mask.flatten(1)[..., None].clamp(0, 1)
