"""The vision tower's crop of drawn photos, many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..encoders.align import BORDER, CROP, TEMPLATE
from ..training.recogniser import warp

CHUNK = 128


def tower_crops(pictures: Tensor, points: Tensor, side: int) -> Tensor:
    """Return the aligned crops, bytes [N, 3, side, side], of byte pictures [N, 3, H, W].

    points [N, 5, 2] in the pictures' pixels. What lies outside has the pack's border colour.
    """
    template = torch.from_numpy(TEMPLATE) * (side / CROP)
    border = torch.tensor(BORDER[::-1]).view(1, 3, 1, 1) / 255
    crops = []
    for row in range(0, len(pictures), CHUNK):
        own = pictures[row : row + CHUNK].float() / 255 - border
        own = warp(own, points[row : row + CHUNK], template, side) + border
        crops.append((255 * own).round().clamp(0, 255).byte())
    return torch.cat(crops)
