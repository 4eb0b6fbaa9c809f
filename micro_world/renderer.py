"""Draw people: the same numbers give the same picture, on every machine, many at once.

Coordinates are the head's: its middle is the origin, y goes down, the face is about 1 high from
there to the chin. ``render`` puts the head into a scene; ``photo`` is the aligned crop on white.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import features
from .people import People
from .shapes import Canvas, Points, ellipse

TOGETHER = 4  # people drawn at a time; 128 take nearly twice as long for each
SMOOTH = 2  # each pixel is the mean of so many squared
GROUNDS = (
    *((0.80, 0.30, 0.28), (0.35, 0.65, 0.38), (0.32, 0.47, 0.80)),
    *((0.90, 0.78, 0.35), (0.60, 0.42, 0.72), (0.62, 0.63, 0.66)),
)
PLACES = (-0.32, 0.0, 0.32)  # of the head in the scene, -1..1 from left to right
SCALE, SCALE_BY = 0.66, 0.07  # of the head in the scene; what size adds
HEIGHT, HEIGHT_BY = -0.02, 0.08
PHOTO = (0.0, 0.70, -0.02)  # x, scale and height of the head in the photo
Place = tuple[Tensor | float, Tensor | float, Tensor | float]
WHITE = 1.0


def render(people: People, side: int = 64) -> Tensor:
    """Return the scenes [B, 3, side, side] in 0..1."""

    def draw(few: People) -> Tensor:
        return painted(few, side, placed(few), scene(few, side * SMOOTH), body=True)

    return in_turns(people, draw)


def photo(people: People, side: int = 64) -> Tensor:
    """Return the aligned photos [B, 3, side, side] in 0..1: the head alone, on white."""

    def draw(few: People) -> Tensor:
        white = torch.full((len(few), 3, side * SMOOTH, side * SMOOTH), WHITE)
        return painted(few, side, PHOTO, white, body=False)

    return in_turns(people, draw)


def in_turns(people: People, draw: Callable[[People], Tensor]) -> Tensor:
    """Return the pictures [B, 3, S, S], drawn a few at a time: their layers stay in the cache."""
    rows = range(0, len(people), TOGETHER)
    return torch.cat([draw(people[row : row + TOGETHER]) for row in rows])


def keypoints(people: People, side: int = 64) -> Tensor:
    """Return eyes, nose and corners of the mouth in the scenes, [B, 5, 2] in pixels."""
    return points_at(people, placed(people), side)


def photo_keypoints(people: People, side: int = 64) -> Tensor:
    """Return the same five points in the photos, [B, 5, 2] in pixels."""
    return points_at(people, PHOTO, side)


def points_at(people: People, place: Place, side: int) -> Tensor:
    """Return the five points [B, 5, 2] in pixels of heads at x, scale and y of ``place``."""
    x, scale, y = place
    places = [
        torch.cat([x + px * scale, y + py * scale], -1) for px, py in features.five_points(people)
    ]
    return (torch.cat(places, 1) + 1) / 2 * side


def boxes(people: People, side: int = 64) -> Tensor:
    """Return the heads' boxes in the scenes, left, top, right, bottom: [B, 4] in pixels."""
    x, scale, y = (torch.as_tensor(v).reshape(-1) for v in placed(people))
    reach = (x - scale, y - 1.1 * scale, x + scale, y + 1.1 * scale)
    return ((torch.stack(reach, -1) + 1) / 2 * side).clamp(0, side)


def placed(people: People) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the heads are in the scenes, and how large: x, scale, y, each [B, 1, 1]."""
    x = torch.tensor(PLACES)[people.word("place")][:, None, None]
    scale = SCALE + SCALE_BY * people.number("size")
    return x, scale, HEIGHT + HEIGHT_BY * people.number("height")


def grid(side: int) -> Points:
    """Return the middles of the pixels of a square from -1 to 1, each [1, side, side]."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    return axis[None, None, :].expand(1, side, side), axis[None, :, None].expand(1, side, side)


def scene(people: People, side: int) -> Tensor:
    """Return the backgrounds [B, 3, side, side]."""
    x, y = grid(side)
    colour = torch.tensor(GROUNDS)[people.word("background")]
    dots = ellipse(((x * 3.5) % 1 - 0.5, (y * 3.5) % 1 - 0.5), 0.27, 0.27) < 0
    marks = {
        "striped": ((x + y) * 3) % 1 < 0.5,
        "dotted": dots,
        "chequered": ((x * 2.5).floor() + (y * 2.5).floor()) % 2 < 1,
    }
    mark = sum(people.is_("pattern", name) * where.float() for name, where in marks.items())
    ground = colour[..., None, None] * (1 - 0.28 * mark[:, None])
    return ground * lit(people, x, 0.25)[:, None] * cast(people)


def lit(people: People, x: Tensor, side_by: float) -> Tensor:
    """Return how bright the light, from the right where positive, makes what lies at x."""
    light = people.number("light")
    return 1 + light * (side_by * x) + 0.12 * light


def cast(people: People) -> Tensor:
    """Return the light's colour, [B, 3, 1, 1]."""
    warmth = people.number("warmth")[:, 0, 0]
    return torch.stack([1 + 0.10 * warmth, 1 + 0 * warmth, 1 - 0.14 * warmth], -1)[..., None, None]


def painted(
    people: People,
    side: int,
    place: Place,
    ground: Tensor,
    body: bool,
) -> Tensor:
    """Return the people at x, y and scale of ``place`` before their grounds."""
    x, scale, y = place
    fine = side * SMOOTH
    u, v = grid(fine)
    points = ((u - x) / scale, (v - y) / scale)
    canvas = Canvas(len(people), fine, 2 / fine / torch.as_tensor(scale))
    features.paint(canvas, people, points, body)
    shade = lit(people, points[0].clamp(-1, 1), 0.35)[:, None] * cast(people)
    picture = ground * (1 - canvas.cover) + canvas.colours * shade
    return torch.nn.functional.avg_pool2d(picture.clamp(0, 1), SMOOTH)
