"""Readers of drawn faces that need no training: random features and a least-squares fit.

A picture goes through fixed random filters; a linear map, fitted to drawn people by ridge
regression, reads the identity's numbers from what they give. Differentiable, the same on every
machine, and made in a second; a trained recogniser reads better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, normalize, relu

from .people import draw_people
from .renderer import photo, render

SIDE = 32  # pixels that a reader looks at
RIDGE = 30.0
TOWER_SEED, TOWER_WIDTH, TOWER_PATCH, SCALES, POOLED = 77, 64, 8, 5, 32


def random_weights(seed: int, *shape: int) -> Tensor:
    """Return N(0, 1 / fan in) numbers."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn[0].numel() ** 0.5


@dataclass(frozen=True)
class Reader:
    """Reads the 14 numbers of a drawn person, centred, from pictures of any size."""

    filters: tuple[Tensor, Tensor]
    mean: Tensor  # of the features
    fit: Tensor  # [features, 14]

    def __call__(self, pictures: Tensor) -> Tensor:
        """pictures [B, 3, H, W] in 0..1 -> [B, 14], with gradient."""
        own = features(pictures, *(one.to(pictures) for one in self.filters))
        return (own - self.mean.to(own)) @ self.fit.to(own)


def features(pictures: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return what fixed filters see in pictures [B, 3, H, W]: [B, 1024]."""
    if pictures.shape[-1] != SIDE:
        pictures = interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
    x = relu(conv2d(2 * pictures - 1, first, stride=2, padding=2))
    x = relu(conv2d(x, second, stride=2, padding=1))
    return adaptive_avg_pool2d(x, 4).flatten(1)


def make_reader(seed: int, people: int = 256) -> Reader:
    """Fit a reader to ``people`` drawn people, each in a scene and in a photo.

    Another seed: other filters and other people, for measuring.
    """
    drawn = draw_people(people, seed)
    filters = (random_weights(seed, 32, 3, 5, 5), random_weights(seed + 1, 64, 32, 3, 3))
    seen = features(torch.cat([render(drawn, SIDE), photo(drawn, SIDE)]), *filters)
    wanted = (drawn.identity - 0.5).repeat(2, 1)
    mean = seen.mean(0)
    centred = (seen - mean).double()
    # the dual form: there are more features than people
    gram = centred @ centred.T
    scale = RIDGE * gram.diagonal().mean() / len(gram)
    eye = torch.eye(len(gram), dtype=torch.float64)
    fit = centred.T @ torch.linalg.solve(gram + scale * eye, wanted.double())
    return Reader(filters, mean, fit.float())


def see(crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Show crops [B, H, W, 3] in 0..1 to a fixed random tower.

    Returns pooled [B, 32] of unit length and five hidden states [B, 1 + 16, 64].
    """
    pixels = 2 * crops.movedim(-1, 1) - 1
    if pixels.shape[-1] != SIDE:
        pixels = interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    hidden = []
    for scale in range(SCALES):
        weight = random_weights(TOWER_SEED + scale, TOWER_WIDTH, 3, TOWER_PATCH, TOWER_PATCH)
        patches = relu(2 * conv2d(pixels, weight.to(pixels), stride=TOWER_PATCH))
        tokens = patches.flatten(2).transpose(1, 2)  # [B, 16, 64]
        hidden.append(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
    pool = random_weights(TOWER_SEED + SCALES, POOLED, TOWER_WIDTH).to(pixels)
    return normalize(hidden[-1][:, 0] @ pool.T, dim=-1), tuple(hidden)
