"""A training set and frozen models of drawn people, from nothing: what examples/micro.toml runs on.

The diffusion model is ComfyUI's own Flux, tiny and random, arranged to end on a grey picture; it
goes through the host's loader. Its latents are pixels, so no VAE is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.latent_formats
import comfy.ops
import comfy.sd
import torch
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from ..training.base import Base
from ..training.config import Config
from ..training.dataset import Pictures, Sample, split
from ..training.models import Models
from .people import WORDS, People, draw_people
from .readers import make_reader, random_weights, see
from .renderer import boxes, keypoints, photo, render

CHANNELS = 16  # of FLUX's latents; 12 hold the pixels of 2x2, 4 are empty
TEXT, POOLED = 64, 32
READ = 64  # people that a reader is fitted to
PEOPLE, LOSS, JUDGE = 1, 2, 3  # seeds: who is drawn, and whom the readers were fitted to
NET = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "vec_in_dim": POOLED,
    "context_in_dim": TEXT,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}


def small_flux(seed: int = 0) -> ModelPatcher:
    """Return a tiny FLUX.1-schnell with random weights, as ComfyUI loads it, in float32."""
    where = {"device": "meta", "dtype": torch.float32}
    net = Flux(image_model="flux", operations=comfy.ops.disable_weight_init, **NET, **where)
    weights = {}
    for number, (key, value) in enumerate(sorted(net.state_dict().items())):
        if value.ndim == 2:
            weights[key] = random_weights(1000 * seed + number, *value.shape)
        else:
            weights[key] = torch.full(value.shape, float("norm" in key and "bias" not in key))
    # what comes in is read back at the end: the velocity is about x, and x goes to grey
    basis, _ = torch.linalg.qr(weights["img_in.weight"])
    weights["img_in.weight"] = basis.contiguous()
    weights["final_layer.linear.weight"] = basis.T.contiguous()
    weights["final_layer.adaLN_modulation.1.weight"] *= 0
    return comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32})


def to_latent(pictures: Tensor) -> Tensor:
    """pictures [B, 3, H, W] in 0..1 -> latents [B, 16, H / 2, W / 2] as a VAE would make them."""
    inside = pad(pixel_unshuffle(2 * pictures - 1, 2), (0, 0, 0, 0, 0, CHANNELS - 12))
    return comfy.latent_formats.Flux().process_out(inside)


def decode(_: Base, latent: Tensor) -> Tensor:
    """Latents as sampled -> pictures, about 0..1: what is beyond keeps its gradient."""
    return (pixel_shuffle(latent[:, :12], 2) + 1) / 2


def text_of(people: People) -> Tensor:
    """Return a token for each line of the prompts, [B, 7, 64]; a line unsaid has one of its own."""
    lines = []
    for number, words in enumerate(WORDS.values()):
        table = torch.randn(len(words) + 1, TEXT, generator=torch.Generator().manual_seed(number))
        word = torch.where(people.said[:, number], people.words[:, number], len(words))
        lines.append(table[word])
    return torch.stack(lines, 1)


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
