"""Small models in memory and one call that samples with them, as the host's nodes do."""

from __future__ import annotations

import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.identity.identity import Identity
from pulid_pack.pulid_flux.checkpoint import PulidModel, from_state_dict
from pulid_pack.pulid_flux.hooks import KEY
from torch import Tensor

from standins.flux import TEXT_POOLED, TEXT_WIDTH, flux_shapes, random_weights
from standins.pulid import cross_attention_shapes, encoder_shapes

TOKEN_WIDTH = 96
LATENT = (12, 10)


def small_flux(
    hidden: int = 128,
    dtype: torch.dtype = torch.float32,
    *,
    guidance: bool = True,
    in_channels: int = 64,
    depth: int = 19,
    depth_single: int = 38,
    weight_dtype: torch.dtype | None = None,
) -> ModelPatcher:
    """Return a random FLUX.1 as ComfyUI loads it, computing in ``dtype``."""
    shapes = flux_shapes(hidden, guidance, in_channels, depth, depth_single)
    weights = random_weights(shapes, torch.Generator().manual_seed(hidden))
    return load_model(weights, dtype, weight_dtype)


def load_model(
    weights: dict[str, Tensor], dtype: torch.dtype, weight_dtype: torch.dtype | None = None
) -> ModelPatcher:
    """Load a diffusion model's weights, kept in ``weight_dtype`` and computing in ``dtype``."""
    weights = {k: v.to(weight_dtype or dtype) for k, v in weights.items()}
    options = {"dtype": weight_dtype or dtype}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)
    if weight_dtype or dtype != torch.float32:  # on a CPU the host would compute in float32
        model.set_model_compute_dtype(dtype)
    return model


def small_pulid(
    hidden: int = 128,
    seed: int = 2,
    token_width: int = TOKEN_WIDTH,
    layers: int = 20,
    metadata: dict[str, str] | None = None,
) -> PulidModel:
    """Return a random PuLID model for a FLUX of width ``hidden``."""
    shapes = cross_attention_shapes(hidden, token_width, layers)
    shapes |= encoder_shapes(64, token_width, 128, 576)
    weights = random_weights(shapes, torch.Generator().manual_seed(seed))
    return from_state_dict(weights, f"pulid {seed}", metadata)


def person(seed: int, tokens: int = 32, token_width: int = TOKEN_WIDTH) -> Identity:
    """Return a random identity; the unconditional one is the same for everybody."""
    draw = torch.Generator().manual_seed(seed)
    nobody = torch.Generator().manual_seed(0)
    return Identity(
        torch.randn(1, tokens, token_width, generator=draw),
        torch.randn(1, 32, token_width, generator=nobody),
    )


def cond(seed: int, **more) -> list:
    """Return a conditioning of 8 text tokens."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randn(1, 8, TEXT_WIDTH, generator=draw)
    pooled = torch.randn(1, TEXT_POOLED, generator=draw)
    return [[text, {"pooled_output": pooled, "guidance": 3.5} | more]]


def sample(
    model: ModelPatcher,
    *,
    steps: int = 4,
    cfg: float = 1.0,
    batch: int = 1,
    size: tuple[int, int] = LATENT,
    positive: list | None = None,
    negative: list | None = None,
    callback=None,
    scheduler: str = "simple",
    sampler: str = "euler",
    denoise: float = 1.0,
    noise_mask: Tensor | None = None,
) -> Tensor:
    """Sample [batch, 16, h, w] from fixed noise through the host's sampler."""
    noise = torch.randn(batch, 16, *size, generator=torch.Generator().manual_seed(7))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        positive or cond(1),
        negative or cond(2),
        torch.zeros_like(noise),
        denoise=denoise,
        noise_mask=noise_mask,
        callback=callback,
        disable_pbar=True,
        seed=1,
    )


def identity_layers(model: ModelPatcher) -> list[torch.nn.Module]:
    """Return the modules that hold the identities of ``model``, one for each fold."""
    return [p.model for p in model.get_additional_models_with_key(KEY)]
