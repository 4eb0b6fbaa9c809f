"""The drawn world's small networks: a recogniser, a finder of faces and a reader of words.

Recogniser and finder take and give what insightface's ArcFace and SCRFD do, so that their ONNX
files stand in antelopev2's places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from .people import WORDS

CELL = 32  # pixels of a cell of the finder: the one stride of SCRFD's three that it answers at
FINDER_SHRINK = 8  # the finder looks at an eighth of the pixels
GROUPS = 4  # of channels that are normalised together


def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution, its norm (not over the batch, whose kinds differ) and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(GROUPS, outputs), nn.ReLU())


class Recogniser(nn.Module):
    """φ: aligned crops [B, 3, 112, 112] in -1..1 -> vectors [B, out]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128), out: int = 128):
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        layers = [convolution(a, b, 2 if n else 1) for n, (a, b) in enumerate(pairs)]
        self.shrink = nn.AvgPool2d(4)
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * 16, out)

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.body(self.shrink(crops)).flatten(1))


class Finder(nn.Module):
    """Finds faces in pictures [B, 3, 8 h, 8 w] in -1..1, in cells of 32 pixels.

    ``cells`` gives logits [B, 1, H, W], distances from the cell's corner to the sides of the head's
    box and to the five points, in cells: [B, 4, H, W] and [B, 10, H, W]; forward gives SCRFD's nine
    outputs, whose boxes end at the face.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 40, 64)):
        super().__init__()
        first, second, third = widths
        self.shrink = nn.AvgPool2d(FINDER_SHRINK)
        self.body = nn.Sequential(
            convolution(3, first, 1),
            convolution(first, second, 2),
            convolution(second, third, 2),
            convolution(third, third, 1),
            convolution(third, third, 1),
        )
        self.head = nn.Conv2d(third, 15, 1)

    def cells(self, small: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Small [B, 3, h, w] is the picture at an eighth."""
        return self.head(self.body(small)).split((1, 4, 10), dim=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        small = self.shrink(pictures)
        score, box, points = self.cells(small)
        found = [rows(score.sigmoid(), 1), rows(face_of(relu(box)), 4), rows(points, 10)]
        # a score of 0 in all cells of the finer strides, and what insightface reads beside it
        empty = [small[:, :1], nn.functional.avg_pool2d(small[:, :1], 2)]
        finer = [[rows(one * 0, width, width) for one in empty] for width in (1, 4, 10)]
        return tuple(
            value for own, last in zip(finer, found, strict=True) for value in (*own, last)
        )


def face_of(head: Tensor) -> Tensor:
    """Return the distances [B, 4, H, W] to a box of half the head's size around the same middle.

    SCRFD's boxes end at brows and chin; what measures adds hair and neck to them.
    """
    first, last = head.split(2, dim=1)  # left and top, right and bottom
    return torch.cat([(3 * first - last) / 4, (3 * last - first) / 4], 1)


def rows(grid: Tensor, width: int, copies: int = 1) -> Tensor:
    """Return [B, width, H, W] (or one channel for all of ``copies``) as SCRFD's [B H W 2, width].

    The second anchor of each cell is all 0.
    """
    flat = grid.repeat(1, copies, 1, 1).movedim(1, -1)  # [B, H, W, width]
    return torch.stack([flat, flat * 0], dim=3).reshape(-1, width)


class WordReader(nn.Module):
    """Scenes [B, 3, 64, 64] in 0..1 -> logits of the words of each line, side by side [B, 29]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.body = nn.Sequential(*(convolution(a, b, 2) for a, b in pairs))
        self.head = nn.Linear(widths[-1] * 16, sum(map(len, WORDS.values())))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(2 * pictures - 1).flatten(1))

    def lines(self, pictures: Tensor) -> list[Tensor]:
        """Return the logits of each line."""
        return list(self(pictures).split([len(words) for words in WORDS.values()], dim=1))
