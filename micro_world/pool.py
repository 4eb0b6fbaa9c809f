"""The pictures that the drawn world's networks learn from, drawn once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import comfy.latent_formats
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..training.recogniser import warp
from .codec import PATCH, Codec, fit
from .people import People, draw_people
from .renderer import photo, render

SEEN, CHUNK = 12_288, 128  # people of the pictures; drawn at a time
SIDE = 64  # of a picture
SHAKEN = 0.5  # pixels by which a detector's points are off
HEAD = 4.0  # what an error in a head counts: who it is shows there, and it is a third of a picture
BLUR, NOISE = 5, 0.3  # pixels, and the deviation of pictures in -1..1: the most of ``softened``


@dataclass(frozen=True)
class Pool:
    """A folder of half-learned networks; ``tell`` gets lines of progress."""

    folder: Path
    seed: int
    tell: Callable[[str], None]

    @cached_property
    def people(self) -> People:
        """Whom the networks see."""
        return draw_people(SEEN, self.seed * 1000 + 1)

    @cached_property
    def sitters(self) -> People:
        """The same people on another day: their photos share neither words nor light."""
        other = draw_people(SEEN, self.seed * 1000 + 2)
        return replace(other, identity=self.people.identity)

    def drawn(self, name: str, people: People, draw: Callable[[People], Tensor]) -> Tensor:
        """Return pictures [SEEN, 3, 64, 64] in 0..255, drawn once."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            self.tell(f"drawing {len(people)} {name}")
            chunks = [
                (255 * draw(people[row : row + CHUNK])).round().byte()
                for row in range(0, len(people), CHUNK)
            ]
            half = path.with_suffix(".part")
            save_file({name: torch.cat(chunks)}, half)
            os.replace(half, path)
        return load_file(path)[name]

    @cached_property
    def pictures(self) -> Tensor:
        """The people's scenes."""
        return self.drawn("pictures", self.people, render)

    @cached_property
    def photos(self) -> Tensor:
        """The sitters' photos."""
        return self.drawn("photos", self.sitters, photo)

    @cached_property
    def codec(self) -> Codec:
        """Fitted to the first of the pictures."""
        return fit(self.pictures[:2048].float() / 255)


def painted(codec: Codec, pictures: Tensor) -> Tensor:
    """Return pictures [B, 3, 64, 64] as they are after the codec."""
    return codec.decode(as_sampled(codec.encode(pictures))).clamp(0, 1)


def as_sampled(latents: Tensor) -> Tensor:
    """Return the VAE's latents as the model samples them."""
    return comfy.latent_formats.Flux().process_in(latents)


def head_weights(boxes: Tensor) -> Tensor:
    """boxes [B, 4] in pixels -> what each latent pixel counts, [B, 1, 16, 16], 1 in the mean."""
    at = (torch.arange(SIDE // PATCH) + 0.5) * PATCH
    across, down = (
        (at > boxes[:, low : low + 1]) & (at < boxes[:, low + 2 : low + 3]) for low in (0, 1)
    )
    weight = 1 + (HEAD - 1) * (down[:, :, None] & across[:, None]).float()
    return (weight / weight.mean((1, 2), keepdim=True))[:, None]


def softened(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """Return pictures [B, 3, H, W] in -1..1 blurred and noisy, each by its own amount.

    As they are in the middle of sampling: who only ever saw sharp ones takes blur for a stranger.
    """
    blur, noise = torch.rand(2, len(pictures), 1, 1, 1, generator=draw).square()
    soft = avg_pool2d(pictures, BLUR, 1, BLUR // 2, count_include_pad=False)
    grain = torch.randn(pictures.shape, generator=draw)
    return torch.lerp(pictures, soft, blur) + NOISE * noise * grain


def faces(
    pictures: Tensor, points: Tensor, draw: torch.Generator, codec: Codec | None = None
) -> Tensor:
    """Return the recognisers' crops at a quarter, bytes [N, 3, 28, 28], their points shaken."""
    shaken = points + SHAKEN * torch.randn(points.shape, generator=draw)
    crops = []
    for row in range(0, len(pictures), CHUNK):
        own = pictures[row : row + CHUNK].float() / 255
        own = own if codec is None else painted(codec, own)
        crops.append((255 * avg_pool2d(warp(own, shaken[row : row + CHUNK]), 4)).round().byte())
    return torch.cat(crops)
