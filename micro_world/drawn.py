"""A training set and frozen models of drawn people, from nothing: what examples/micro.toml runs on.

The diffusion model is ComfyUI's own Flux, tiny and random, arranged to end on a grey picture; it
goes through the host's loader. Its latents are pixels, so no VAE is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.latent_formats
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from ..training.base import Base
from ..training.config import Config
from ..training.dataset import Pictures, Sample, split
from ..training.models import Models
from .flux import CHANNELS, POOLED, as_model, random_flux, text_of
from .people import draw_people
from .readers import make_reader, see
from .renderer import boxes, keypoints, photo, render

READ = 64  # people that a reader is fitted to
PEOPLE, LOSS, JUDGE = 1, 2, 3  # seeds: who is drawn, and whom the readers were fitted to


def small_flux() -> ModelPatcher:
    """Return a tiny FLUX.1-schnell with random weights, as ComfyUI loads it, in float32."""
    return as_model(random_flux((1, 1)))


def to_latent(pictures: Tensor) -> Tensor:
    """pictures [B, 3, H, W] in 0..1 -> latents [B, 16, H / 2, W / 2] as a VAE would make them."""
    # 12 channels hold the pixels of 2x2, 4 are empty
    inside = pad(pixel_unshuffle(2 * pictures - 1, 2), (0, 0, 0, 0, 0, CHANNELS - 12))
    return comfy.latent_formats.Flux().process_out(inside)


def decode(_: Base, latent: Tensor) -> Tensor:
    """Latents as sampled -> pictures, about 0..1: what is beyond keeps its gradient."""
    return (pixel_shuffle(latent[:, :12], 2) + 1) / 2


@dataclass(frozen=True)
class Drawn:
    """Everything that a run on drawn people needs."""

    models: Models
    pictures: Pictures


def make(config: Config) -> Drawn:
    """Draw the people and make the models."""
    with torch.inference_mode(False), torch.no_grad():
        base = small_flux()
        reader, judge = (make_reader(seed, READ) for seed in (LOSS, JUDGE))
        models = Models(
            name="a tiny random FLUX",
            base=base,
            branch=base,
            others=[],
            decode=decode,
            see=see,
            recognise=lambda pictures: (reader(pictures), pictures.new_ones(len(pictures))),
            judge=lambda pictures: (judge(pictures), pictures.new_ones(len(pictures))),
        )
        samples = draw_samples(config, reader)
    names = [one.name for one in samples]
    held, seed = config.data.held_out, config.run.seed
    return Drawn(models, split(names, held, seed, samples.__getitem__))


def draw_samples(config: Config, reader) -> list[Sample]:
    """Return a sample of each drawn person."""
    side, people = config.data.size, draw_people(config.data.people, PEOPLE)
    crops = photo(people, side)
    fields = zip(
        *(to_latent(render(people, side)), crops.movedim(1, -1), reader(crops)),
        *(text_of(people), boxes(people, side), keypoints(people, side)),
        strict=True,
    )
    return [
        Sample(f"person {number}", latent, crop, vector, text, torch.zeros(POOLED), box, points)
        for number, (latent, crop, vector, text, box, points) in enumerate(fields)
    ]
