"""Shapes by their signed distance, many at once: what the renderer draws with.

A distance is negative inside. Points are a pair x, y of [B, H, W]; sizes are numbers or [B, 1, 1].
Lengths are in the units of the points.
"""

from __future__ import annotations

import torch
from torch import Tensor

Points = tuple[Tensor, Tensor]
Size = float | Tensor


def moved(points: Points, x: Size, y: Size) -> Points:
    """Return the points as seen from (x, y)."""
    return points[0] - x, points[1] - y


def ellipse(points: Points, wide: Size, high: Size) -> Tensor:
    """Distance to an ellipse of these half axes around the origin; near its edge it is exact."""
    x, y = points
    inside = ((x / wide).square() + (y / high).square()).sqrt().clamp_min(1e-6)
    slope = ((x / wide**2).square() + (y / high**2).square()).sqrt().clamp_min(1e-6)
    return inside * (inside - 1) / slope


def box(points: Points, wide: Size, high: Size, round_: Size = 0.0) -> Tensor:
    """Distance to a box of these half sides around the origin, its corners rounded."""
    x, y = points[0].abs() - wide + round_, points[1].abs() - high + round_
    outside = (x.clamp_min(0).square() + y.clamp_min(0).square()).sqrt()
    return outside + torch.maximum(x, y).clamp_max(0) - round_


def bow(points: Points, wide: Size, rise: Size, thick: Size) -> Tensor:
    """Distance to a stroke of this thickness along y = rise · (x / wide)², |x| at most wide."""
    x, y = points
    along = torch.maximum(torch.minimum(x, as_tensor(wide, x)), -as_tensor(wide, x))
    curve = rise * (along / wide).square()
    slope = 2 * rise * along / wide**2
    away = (y - curve) / (1 + slope.square()).sqrt()
    return ((x - along).square() + away.square()).sqrt() - thick / 2


def both(*distances: Tensor) -> Tensor:
    """Distance to what lies in all of these."""
    return torch.stack(torch.broadcast_tensors(*distances)).amax(0)


def either(*distances: Tensor) -> Tensor:
    """Distance to what lies in one of these."""
    return torch.stack(torch.broadcast_tensors(*distances)).amin(0)


def as_tensor(size: Size, like: Tensor) -> Tensor:
    """Return a size as a tensor."""
    return torch.as_tensor(size, dtype=like.dtype)


class Canvas:
    """Layers of paint: colours [B, 3, H, W], weighted by their cover [B, 1, H, W], 0 at first."""

    def __init__(self, count: int, side: int, pixel: Size):
        self.colours = torch.zeros(count, 3, side, side)
        self.cover = torch.zeros(count, 1, side, side)
        self.pixel = pixel  # length of a pixel's side in the units of the distances

    def paint(self, distance: Tensor, colour: Tensor, shown: Tensor | float = 1.0) -> None:
        """Paint a shape over what is there; colour [B, 3], shown [B, 1, 1] in 0..1 its opacity."""
        cover = ((0.5 - distance / self.pixel).clamp(0, 1) * shown)[:, None]
        self.colours = torch.lerp(self.colours, colour[..., None, None], cover)
        self.cover = self.cover + (1 - self.cover) * cover
