"""The parts of a drawn person, from back to front."""

from __future__ import annotations

import torch
from torch import Tensor

from .people import People
from .shapes import Canvas, Points, both, bow, box, either, ellipse, moved

SKIN = ((0.31, 0.19, 0.12), (0.55, 0.35, 0.23), (0.80, 0.58, 0.43), (0.97, 0.83, 0.72))
HAIR = (
    *((0.06, 0.05, 0.06), (0.30, 0.17, 0.09), (0.63, 0.26, 0.10)),
    *((0.90, 0.75, 0.42), (0.75, 0.75, 0.77)),
)
EYES = ((0.22, 0.13, 0.07), (0.35, 0.45, 0.18), (0.22, 0.42, 0.75))
SHIRTS = (
    *((0.95, 0.95, 0.95), (0.10, 0.10, 0.12), (0.93, 0.52, 0.15)),
    *((0.10, 0.55, 0.55), (0.94, 0.55, 0.70)),
)
CAP, TOP_HAT, BEANIE = (0.75, 0.15, 0.18), (0.12, 0.12, 0.16), (0.16, 0.35, 0.62)
EYE_HEIGHT = -0.08
BLACK, WHITE = (0.05, 0.05, 0.06), (0.97, 0.97, 0.96)


def paint(canvas: Canvas, people: People, points: Points, body: bool) -> None:
    """Paint the people; ``points`` are the head's coordinates; ``body``: with shoulders."""
    behind(canvas, people, points)
    if body:
        shoulders(canvas, people, points)
    face(canvas, people, points)
    beard(canvas, people, points)
    mouth(canvas, people, points)
    nose(canvas, people, points)
    eyes(canvas, people, points)
    fringe(canvas, people, points)
    hat(canvas, people, points)
    glasses(canvas, people, points)


def five_points(people: People) -> list[tuple[Tensor, Tensor]]:
    """Return x and y, each [B, 1, 1], of eyes, nose and corners of the mouth."""
    apart, low, wide = eye_distance(people), mouth_height(people), mouth_width(people)
    zero = torch.zeros_like(apart)
    eye = zero + EYE_HEIGHT
    corners = [(-wide, low), (wide, low)]
    return [(-apart, eye), (apart, eye), (zero, nose_end(people)), *corners]


def eye_distance(people: People) -> Tensor:
    return 0.23 + 0.13 * people.number("eye_spacing")


def nose_end(people: People) -> Tensor:
    return 0.10 + 0.16 * people.number("nose")


def mouth_height(people: People) -> Tensor:
    return 0.42 + 0.12 * people.number("face_length")


def mouth_width(people: People) -> Tensor:
    return 0.13 + 0.16 * people.number("mouth")


def half_width(people: People) -> Tensor:
    """Half the face's width."""
    return 0.54 + 0.20 * people.number("face_width")


def chin(people: People) -> Tensor:
    """How far the chin is below the head's middle."""
    return 0.80 + 0.22 * people.number("face_length")


def skin(people: People) -> Tensor:
    return blended(SKIN, people.number("skin"))


def hair(people: People) -> Tensor:
    return blended(HAIR, people.number("hair_colour"))


def blended(colours: tuple, at: Tensor) -> Tensor:
    """Return a colour between those of a row, [B, 3], at [B, 1, 1] in 0..1."""
    row = torch.tensor(colours)
    place = at[:, 0, 0].clamp(0, 1) * (len(row) - 1)
    low = place.floor().clamp(max=len(row) - 2).long()
    return torch.lerp(row[low], row[low + 1], (place - low)[:, None])


def one(colour: tuple[float, float, float], people: People) -> Tensor:
    """Return the same colour for all, [B, 3]."""
    return torch.tensor(colour).expand(len(people), 3)


def skull(people: People, points: Points) -> Tensor:
    """Distance to the face's outline: round above, longer below."""
    wide = half_width(people)
    above, below = ellipse(points, wide, 0.72), ellipse(points, wide, chin(people))
    return torch.where(points[1] < 0, above, below)


def behind(canvas: Canvas, people: People, points: Points) -> None:
    """The hair that hangs behind the head: short, or down to the shoulders."""
    long, volume = people.number("hair_length"), people.number("hair_volume")
    wide = half_width(people) + 0.05 + 0.20 * volume
    crown = ellipse(moved(points, 0.0, -0.12), wide, 0.74 + 0.16 * volume)
    low = -0.10 + 1.15 * long
    fall = box(moved(points, 0.0, (low - 0.2) / 2), wide, ((low + 0.2) / 2).clamp_min(0.05), 0.12)
    top = moved(points, 0.0, -0.12)[1]
    crown = both(crown, top - 0.25)  # the back of the neck is free
    canvas.paint(either(crown, torch.where(long > 0.3, fall, torch.ones_like(fall))), hair(people))


def shoulders(canvas: Canvas, people: People, points: Points) -> None:
    """Neck and shirt."""
    neck = box(moved(points, 0.0, 0.95), 0.24, 0.45, 0.1)
    canvas.paint(neck, 0.86 * skin(people))
    shirt = box(moved(points, 0.0, 2.05), 1.10, 0.86, 0.5)
    canvas.paint(shirt, torch.tensor(SHIRTS)[people.word("shirt")])
    canvas.paint(ellipse(moved(points, 0.0, 1.2), 0.26, 0.16), 0.86 * skin(people))


def face(canvas: Canvas, people: People, points: Points) -> None:
    """Ears, face and cheeks."""
    colour, wide = skin(people), half_width(people)
    for side in (-1, 1):
        canvas.paint(ellipse(moved(points, side * wide, 0.0), 0.10, 0.17), 0.93 * colour)
    outline = skull(people, points)
    canvas.paint(outline, colour)
    blush = torch.lerp(colour, one((0.86, 0.30, 0.28), people), 0.75)
    for side in (-1, 1):
        cheek = ellipse(moved(points, side * 0.62 * wide, 0.22), 0.16, 0.12)
        canvas.paint(both(cheek, outline), blush, 0.75 * people.number("blush"))


def beard(canvas: Canvas, people: People, points: Points) -> None:
    """Nothing, a moustache, or more, down from the ears."""
    much, low = people.number("beard"), mouth_height(people)
    outline = skull(people, points)
    full = both(outline, low - 0.17 - points[1] - 0.5 * points[0].square())
    free = -ellipse(moved(points, 0.0, low), mouth_width(people) + 0.06, 0.09)
    colour = 0.9 * hair(people)
    canvas.paint(both(full, free), colour, (much > 0.62).float() * (0.55 + 0.45 * much))
    lip = bow(moved(points, 0.0, low - 0.13), mouth_width(people), 0.07, 0.09)
    canvas.paint(lip, colour, (much > 0.45).float())


def mouth(canvas: Canvas, people: People, points: Points) -> None:
    """Lips by the expression's word."""
    wide, at = mouth_width(people), moved(points, 0.0, mouth_height(people))
    colour = torch.lerp(skin(people), one((0.70, 0.16, 0.18), people), 0.8)
    smile, surprise = (people.is_("expression", word) for word in ("smiling", "surprised"))
    rise = -0.13 * smile
    teeth = both(bow(moved(at, 0.0, 0.10 * smile), wide, rise - 1e-4, 0.11), -at[1] - 0.02)
    canvas.paint(bow(moved(at, 0.0, 0.09 * smile), wide, rise - 1e-4, 0.09), colour, 1 - surprise)
    canvas.paint(teeth + 0.025, one(WHITE, people), smile)
    hole = ellipse(at, 0.6 * wide + 0.02, 0.13)
    canvas.paint(hole, colour, surprise)
    canvas.paint(hole + 0.035, one((0.25, 0.05, 0.06), people), surprise)


def nose(canvas: Canvas, people: People, points: Points) -> None:
    """A shadow along one side, and its tip."""
    end = nose_end(people)
    ridge = box(moved(points, 0.045, end / 2 - 0.02), 0.018, end / 2 + 0.03, 0.01)
    canvas.paint(ridge, 0.80 * skin(people))
    canvas.paint(ellipse(moved(points, 0.0, end), 0.085, 0.05), 0.82 * skin(people))


def eyes(canvas: Canvas, people: People, points: Points) -> None:
    """Whites, irises and brows."""
    large = 0.085 + 0.065 * people.number("eye_size")
    apart, thick = eye_distance(people), 0.03 + 0.07 * people.number("brows")
    surprise = people.is_("expression", "surprised")
    iris = blended(EYES, people.number("eye_colour"))
    brow = 0.55 * hair(people)
    for side in (-1, 1):
        at = moved(points, side * apart, EYE_HEIGHT)
        canvas.paint(
            ellipse(at, 1.25 * large, large * (0.85 + 0.35 * surprise)), one(WHITE, people)
        )
        canvas.paint(ellipse(at, 0.66 * large, 0.66 * large), iris)
        canvas.paint(ellipse(at, 0.33 * large, 0.33 * large), one(BLACK, people))
        above = moved(at, 0.0, -0.20 - 0.06 * surprise)
        canvas.paint(bow(above, 0.15, 0.05, thick), brow)


def fringe(canvas: Canvas, people: People, points: Points) -> None:
    """The hair in front: none where it is very short, else over the forehead."""
    long, volume = people.number("hair_length"), people.number("hair_volume")
    cap = ellipse(moved(points, 0.0, -0.06), half_width(people) + 0.04, 0.72 + 0.10 * volume)
    line = -0.34 - 0.16 * (1 - volume)
    front = points[1] - line - 0.32 * points[0].square()
    canvas.paint(both(cap, front), hair(people), (long > 0.12).float())
    sides = both(cap, points[1] - 0.15, half_width(people) - 0.10 - points[0].abs())
    canvas.paint(sides, hair(people), (long > 0.3).float())


def hat(canvas: Canvas, people: People, points: Points) -> None:
    """A cap, a top hat or a beanie, if the word says so."""
    wide = half_width(people)
    cap, top, beanie = (people.is_("hat", word) for word in ("cap", "top hat", "beanie"))
    dome = both(ellipse(moved(points, 0.0, -0.35), wide + 0.10, 0.52), points[1] + 0.38)
    canvas.paint(dome, one(CAP, people), cap)
    canvas.paint(box(moved(points, 0.22, -0.40), wide, 0.06, 0.05), 0.8 * one(CAP, people), cap)
    canvas.paint(box(moved(points, 0.0, -0.80), wide - 0.08, 0.42, 0.03), one(TOP_HAT, people), top)
    canvas.paint(box(moved(points, 0.0, -0.50), wide - 0.08, 0.07), one(CAP, people), top)
    canvas.paint(box(moved(points, 0.0, -0.42), wide + 0.26, 0.05, 0.04), one(TOP_HAT, people), top)
    knit = both(ellipse(moved(points, 0.0, -0.30), wide + 0.12, 0.66), points[1] + 0.30)
    canvas.paint(knit, one(BEANIE, people), beanie)
    band = box(moved(points, 0.0, -0.36), wide + 0.13, 0.09, 0.06)
    canvas.paint(band, 1.3 * one(BEANIE, people), beanie)


def glasses(canvas: Canvas, people: People, points: Points) -> None:
    """Round, square or dark ones, if the word says so."""
    names = ("round glasses", "square glasses", "sunglasses")
    circle, square, dark = (people.is_("glasses", word) for word in names)
    frame, apart = one(BLACK, people), eye_distance(people)
    for side in (-1, 1):
        at = moved(points, side * apart, EYE_HEIGHT)
        ring = ellipse(at, 0.20, 0.20)
        canvas.paint(both(ring, -ring - 0.05), frame, circle)
        pane = box(at, 0.20, 0.15, 0.04)
        canvas.paint(both(pane, -pane - 0.05), frame, square)
        canvas.paint(box(at, 0.21, 0.15, 0.09), frame, dark)
    bridge = box(moved(points, 0.0, EYE_HEIGHT - 0.04), (apart - 0.18).clamp_min(0.01), 0.025)
    canvas.paint(bridge, frame, (circle + square + dark).clamp(max=1))
