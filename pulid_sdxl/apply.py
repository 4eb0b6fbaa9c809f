"""Apply an identity to an SDXL model, or refuse the model by name."""

from __future__ import annotations

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher

from ..identity.id_encoder import is_dynamic
from ..identity.identity import check_fits
from ..identity.prepared import compute_dtype
from .checkpoint import PulidSDXLModel
from .hooks import KEY, SDXLHooks
from .unet import attention_layers
from .uses import SDXLModel, SDXLUse

SUPPORTED = (
    "SDXL and every model of its UNet (Turbo, Lightning, Hyper, LCM, Pony, Illustrious, NoobAI, "
    "Animagine, Juggernaut, inpainting, Playground 2.5)"
)
# The host's model kinds that are often taken for SDXL.
KINDS = {
    "SD15": "Stable Diffusion 1.5",
    "SD20": "Stable Diffusion 2",
    "SD21UnclipL": "Stable Diffusion 2 unCLIP",
    "SD21UnclipH": "Stable Diffusion 2 unCLIP",
    "SDXLRefiner": "the SDXL refiner",
    "SSD1B": "SSD-1B, a smaller SDXL",
    "Segmind_Vega": "Segmind Vega, a smaller SDXL",
    "KOALA_700M": "KOALA 700M, a smaller SDXL",
    "KOALA_1B": "KOALA 1B, a smaller SDXL",
}


def apply_identity(model: ModelPatcher, use: SDXLUse) -> ModelPatcher:
    """Return a copy of ``model`` with the identity added to those it already has.

    ``model`` itself is not modified. An identity that can never act (an empty one, weight 0, a
    window that never opens, a mask of zeros) adds nothing at all.

    Raises ValueError if the model is of another kind or size, or the identity was made with another
    kind of PuLID model.
    """
    pulid = use.pulid
    target = describe(model, pulid)
    check_fits(use.identity, pulid.family, pulid.token_width, pulid.name)
    patched = model.clone()
    if not use.never_acts:
        earlier = model.get_attachment(KEY)
        uses = (*(earlier.uses if earlier else ()), use)
        SDXLHooks(target, uses).install(patched)
    return patched


def describe(model: ModelPatcher, pulid: PulidSDXLModel) -> SDXLModel:
    """Return what has to be known of ``model``; raise ValueError if identity cannot enter it."""
    unet = getattr(model.model, "diffusion_model", None)
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"PuLID-SDXL cannot be applied to this model ({type(model.model).__name__}, "
            f"{type(unet).__name__}). It works with {SUPPORTED}, loaded with ComfyUI's own loaders."
        )
    layers = attention_layers(unet)
    found = [(layer.width, layer.context) for layer in layers]
    wanted = [(layer.id_to_k.out_features, layer.id_to_k.in_features) for layer in pulid.layers]
    if found != wanted:
        config = type(getattr(model.model, "model_config", None)).__name__
        widths = sorted({width for width, _ in found})
        raise ValueError(
            f"PuLID-SDXL cannot be applied to this model ({KINDS.get(config, config)}): it has "
            f"{len(found)} cross-attention layers of widths {widths} for text of width "
            f"{sorted({context for _, context in found})}, but {pulid.name} is made for "
            f"{len(wanted)} of {sorted({width for width, _ in wanted})} and "
            f"{sorted({context for _, context in wanted})}. It works with {SUPPORTED}."
        )
    return SDXLModel(
        layers=tuple(layer.key for layer in layers),
        dtype=compute_dtype(model, torch.float16),
        load_device=model.load_device,
        offload_device=model.offload_device,
        dynamic=is_dynamic(model),
    )
