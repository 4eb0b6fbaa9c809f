"""Apply an identity to a FLUX model, or refuse the model by name."""

from __future__ import annotations

import torch
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.model import Flux
from comfy.model_base import Flux as Base
from comfy.model_patcher import ModelPatcher

from ..identity.id_encoder import is_dynamic
from ..identity.identity import FLUX, check_fits
from ..identity.prepared import compute_dtype
from .blocks import block_layers
from .checkpoint import PulidModel
from .folding import FluxModel
from .hooks import KEY, FluxHooks
from .uses import FluxUse

SUPPORTED = (
    "FLUX.1 (dev, schnell, Krea, Fill, Kontext and their pruned forms), Chroma and Chroma Radiance"
)
FLUX_1 = {"Flux", "Chroma", "ChromaRadiance"}  # the host's classes


def apply_identity(model: ModelPatcher, use: FluxUse) -> ModelPatcher:
    """Return a copy of ``model`` with the identity added to those it already has.

    ``model`` itself is not modified. An identity that can never act (an empty one, weight 0, a
    window that never opens, a mask of zeros) adds nothing at all.

    Raises ValueError if the model is of another kind or width, or the identity was made with
    another PuLID model.
    """
    pulid = use.pulid
    flux = describe(model, pulid)
    check_fits(use.identity, FLUX, pulid.token_width, pulid.name)
    patched = model.clone()
    if not use.never_acts:
        earlier = hooks_of(model)
        uses = (*(earlier.uses if earlier else ()), use)
        FluxHooks(flux, uses).install(patched)
    return patched


def hooks_of(model: ModelPatcher) -> FluxHooks | None:
    """Return what earlier Apply nodes have put on ``model``."""
    return model.get_attachment(KEY)


def describe(model: ModelPatcher, pulid: PulidModel) -> FluxModel:
    """Return what has to be known of ``model``; raise ValueError if identity cannot enter it."""
    transformer = getattr(model.model, "diffusion_model", None)
    kind = foreign_kind(model) if isinstance(transformer, (Flux, Chroma)) else None
    if not isinstance(transformer, (Flux, Chroma)) or (kind and kind != "FLUX.2"):
        kind = kind or type(model.model).__name__
        raise ValueError(
            f"PuLID-FLUX cannot be applied to this model ({kind}, {type(transformer).__name__}). "
            f"It works with {SUPPORTED}, loaded with ComfyUI's own loaders (Load Diffusion Model)."
        )
    depths = (len(transformer.double_blocks), len(transformer.single_blocks))
    blocks = block_layers(*depths, pulid.double_layers)
    # nobody has published layers for FLUX.2; a file trained for it has as many as it asks for
    if kind == "FLUX.2" and (transformer.hidden_size, len(blocks)) != (
        pulid.width,
        len(pulid.layers),
    ):
        raise ValueError(
            f"PuLID-FLUX cannot be applied to FLUX.2 with {pulid.name}, whose {len(pulid.layers)} "
            f"layers are made for a model {pulid.width} values wide: this one is "
            f"{transformer.hidden_size} wide and asks for {len(blocks)}. Load a PuLID file that "
            f"was trained for it, or {SUPPORTED}."
        )
    kind, width = type(model.model).__name__, transformer.hidden_size
    if width != pulid.width:
        raise ValueError(
            f"The PuLID model {pulid.name} is made for a FLUX model {pulid.width} "
            f"values wide, but this {kind} is {width} wide. Use the files made for each other."
        )
    doubles = len({layer for name, _, layer in blocks if name == "double_block"})
    too_many_doubles = pulid.double_layers is not None and doubles > pulid.double_layers
    if too_many_doubles or max(layer for *_, layer in blocks) >= len(pulid.layers):
        raise ValueError(
            f"This {kind} asks for {doubles} + {len(blocks) - doubles} identity layers in double "
            f"and single blocks; {pulid.name} has {len(pulid.layers)} in all. The PuLID file is "
            "not made for a model this deep."
        )
    return FluxModel(
        width=width,
        patch_size=transformer.patch_size,
        blocks=tuple(blocks),
        dtype=compute_dtype(model, torch.bfloat16),
        load_device=model.load_device,
        offload_device=model.offload_device,
        dynamic=is_dynamic(model),
    )


def foreign_kind(model: ModelPatcher) -> str | None:
    """Return the name of a model of FLUX's class that is neither FLUX.1 nor Chroma, else None."""
    params = model.model.diffusion_model.params
    if getattr(params, "global_modulation", False):
        return "FLUX.2"
    if getattr(params, "yak_mlp", False) or getattr(params, "txt_norm", False):
        return "Ovis-Image"
    kinds = [c.__name__ for c in type(model.model).__mro__ if c.__module__ == Base.__module__]
    if kinds and kinds[0] not in FLUX_1:
        return {"LongCatImage": "LongCat-Image"}.get(kinds[0], kinds[0])
    return None
