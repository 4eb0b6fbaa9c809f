"""Models of the true size made from shapes alone, and one forward of them, for the virtual card.

Use everything here inside ``Card.running``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from standins.eva import eva_shapes
from standins.flux import TEXT_POOLED, TEXT_WIDTH, Shapes, chroma_shapes, flux_shapes
from standins.pulid import cross_attention_shapes, encoder_shapes
from torch import Tensor

WIDTH, HEADS, TOKEN_WIDTH, LAYERS, ID_TOKENS = 3072, 16, 2048, 20, 32
EVA = {"width": 1024, "depth": 24, "image_size": 336, "pooled": 768}
TEXT_TOKENS = 512
SIGMA = 0.7
ADDED = 0.9  # the weight of the authors' blocks
DEPTHS = (19, 38)  # double and single blocks
SHAPES: dict[str, Callable[..., Shapes]] = {
    "FLUX.1-dev": lambda *depths: flux_shapes(WIDTH, True, 64, *depths),
    "FLUX.1-schnell": lambda *depths: flux_shapes(WIDTH, False, 64, *depths),
    "Chroma": chroma_shapes,
}


def empty(shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors of these shapes as a state dict, on the CPU."""
    return {key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}


def true_model(
    name: str = "FLUX.1-dev",
    dtype: torch.dtype = torch.bfloat16,
    depths: tuple[int, int] = DEPTHS,
    **options: Any,
) -> ModelPatcher:
    """Return a diffusion model as ComfyUI loads it from weights in ``dtype``.

    ``options`` are the model options of the loader (dtype, load_device).
    """
    weights = empty(SHAPES[name](*depths), dtype)
    return comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)


def pulid_shapes(layers: int = LAYERS) -> Shapes:
    """Return key and shape of every tensor of pulid_flux_v0.9.1 with ``layers`` layers."""
    encoder = encoder_shapes(1024, TOKEN_WIDTH, EVA["width"], 512 + EVA["pooled"])
    return encoder | cross_attention_shapes(WIDTH, TOKEN_WIDTH, layers, HEADS)


def eva_clip_weights() -> dict[str, Tensor]:
    """Return the tower of EVA02_CLIP_L_336_psz14_s6B.pt in float16."""
    return empty(eva_shapes(**EVA), torch.float16)


@dataclass(frozen=True)
class Picture:
    """What one forward draws: ``rows`` of the batch, negative ones first as ComfyUI sorts them."""

    height: int = 1024
    width: int = 1024
    rows: tuple[int, ...] = (0,)  # cond_or_uncond: 0 the prompt, 1 the negative prompt
    references: int = 0  # Kontext's

    @property
    def shape(self) -> list[int]:
        """Shape of the latent [B, 16, H, W]."""
        return [len(self.rows), 16, self.height // 8, self.width // 8]


def prepare(model: ModelPatcher, picture: Picture) -> list[ModelPatcher]:
    """Load ``model`` and what it needs as ComfyUI does before sampling; return the latter."""
    conds: dict[str, list] = {"positive": [], "negative": []}
    options = model_options(model)
    return comfy.sampler_helpers.prepare_sampling(model, picture.shape, conds, options)[2]


def model_options(model: ModelPatcher) -> dict[str, Any]:
    """Return the options a guider would sample ``model`` with, wrappers included."""
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    options.setdefault("transformer_options", {})
    comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
    return options


def forward(model: ModelPatcher, picture: Picture) -> Tensor:
    """Run one prepared forward: float32 latent [B, 16, H, W] in, the denoised one out."""
    where = model.load_device
    rows = len(picture.rows)
    options = model_options(model)["transformer_options"]
    options |= {"sigmas": torch.tensor([SIGMA]), "cond_or_uncond": list(picture.rows)}
    conds = {
        "c_crossattn": torch.empty(rows, TEXT_TOKENS, TEXT_WIDTH, device=where),
        "guidance": torch.empty(rows, device=where),
        "y": torch.empty(rows, TEXT_POOLED, device=where),
    }
    if picture.references:
        reference = torch.empty(*picture.shape, device=where)
        conds["ref_latents"] = [reference] * picture.references
    if not hasattr(model.model.diffusion_model, "vector_in"):
        del conds["y"]  # Chroma has no pooled text
    model.pre_run()
    try:
        x, sigma = torch.empty(*picture.shape, device=where), torch.empty(rows, device=where)
        return model.model.apply_model(x, sigma, transformer_options=options, **conds)
    finally:
        model.cleanup()


def with_blocks(
    model: ModelPatcher, add: Callable[[int, Tensor], Tensor], blocks: Sequence[tuple[str, int]]
) -> ModelPatcher:
    """Return a copy of ``model`` whose picture tokens become ``add(layer, tokens)`` after blocks.

    The layer is the block's place in ``blocks``: (block name, block index) as ComfyUI names them.
    """
    patched = model.clone()

    def replacement(layer: int, single: bool) -> Callable:
        def block(args: dict, extra: dict) -> dict:
            out = extra["original_block"](args)
            img = out["img"]
            text = TEXT_TOKENS if single else 0  # the text's tokens come first
            added = add(layer, img[:, text:])
            return {**out, "img": torch.cat((img[:, :text], added), 1) if text else added}

        return block

    for layer, (name, index) in enumerate(blocks):
        patched.set_model_patch_replace(
            replacement(layer, name == "single_block"), "dit", name, index
        )
    return patched
