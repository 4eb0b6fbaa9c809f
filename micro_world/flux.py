"""The drawn world's diffusion model: ComfyUI's own Flux, tiny, and the prompts it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.ops
import comfy.sd
import torch
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .people import WORDS, People
from .readers import random_weights

CHANNELS = 16  # of FLUX's latents
TEXT, POOLED = 64, 32
HIDDEN = 128  # the fewest: the rotary dimensions of one head
DEPTHS = (3, 3)  # double and single blocks


class Whole(comfy.ops.disable_weight_init):
    """Layers that have weights at once: under dynamic VRAM the host's Linear gets them late."""

    Linear = torch.nn.Linear


def sizes(depths: tuple[int, int] = DEPTHS) -> dict[str, Any]:
    """Return what ComfyUI's Flux is made with."""
    return {
        "image_model": "flux",
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "vec_in_dim": POOLED,
        "context_in_dim": TEXT,
        "hidden_size": HIDDEN,
        "mlp_ratio": 4.0,
        "num_heads": 1,
        "depth": depths[0],
        "depth_single_blocks": depths[1],
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],
    }


def random_flux(depths: tuple[int, int] = DEPTHS, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights, float32, that begin near the identity: what comes in comes out."""
    where = {"device": "meta", "dtype": torch.float32}
    net = Flux(operations=Whole, **sizes(depths), **where)
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
    return weights


def as_model(weights: Mapping[str, Tensor]) -> ModelPatcher:
    """Return the model as ComfyUI's loader makes it of these weights; it computes in float32."""
    return comfy.sd.load_diffusion_model_state_dict(dict(weights), {"dtype": torch.float32})


def text_of(people: People, side: int | None = None) -> Tensor:
    """Return a token for each line of the prompts, [B, 7, 64]; a line unsaid has one of its own.

    ``side``: 0 or 1 for the left or right one of two people, whose tokens follow each other.
    """
    lines = []
    for number, words in enumerate(WORDS.values()):
        table = torch.randn(len(words) + 1, TEXT, generator=torch.Generator().manual_seed(number))
        word = torch.where(people.said[:, number], people.words[:, number], len(words))
        lines.append(table[word])
    tokens = torch.stack(lines, 1)
    if side is None:
        return tokens
    where = torch.randn(2, TEXT, generator=torch.Generator().manual_seed(len(WORDS)))
    return tokens + where[side]
