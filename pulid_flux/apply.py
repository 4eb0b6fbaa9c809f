"""Apply an identity to a FLUX model, or refuse the model by name."""

from __future__ import annotations

import math

import torch
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from .folding import Applied, Target
from .hooks import KEY, Injection, block_layers

SUPPORTED = "FLUX.1 (dev, schnell, Krea, Fill, Kontext and their pruned forms) and Chroma"


def apply_identity(model: ModelPatcher, applied: Applied) -> ModelPatcher:
    """Return a copy of ``model`` into which the identity is inserted beside those already there.

    ``model`` itself is left as it is. An identity that can never act (weight 0, a window that
    never opens, a mask of zeros) adds nothing at all.

    Raises ValueError if the model is of another kind or width, the identity of another PuLID model,
    or a setting no number.
    """
    check_settings(applied)
    target = describe(model, applied)
    tokens = applied.identity.id_tokens
    if tokens.shape[-1] != applied.pulid.token_width:
        raise ValueError(
            f"This identity has ID tokens of {tokens.shape[-1]} values, but {applied.pulid.name} "
            f"takes {applied.pulid.token_width}. It was made with another PuLID model: encode the "
            "photo again with this one."
        )
    patched = model.clone()
    empty_mask = applied.mask is not None and not applied.mask.any()
    flat = not (applied.double_weight or applied.single_weight)
    if applied.weight == 0 or flat or applied.window.never_opens or empty_mask:
        return patched
    earlier = injection_of(model)
    others = earlier.applied if earlier else ()
    terms = earlier.terms if earlier and earlier.target == target else ()
    Injection(target, (*others, applied), terms).install(patched)
    return patched


def check_settings(applied: Applied) -> None:
    """Raise ValueError if a setting is no number: the API lets NaN through any range."""
    weights = ("weight", "double_weight", "single_weight")
    settings = {name: getattr(applied, name) for name in weights}
    settings |= {"start_at": applied.window.start_at, "end_at": applied.window.end_at}
    for name, value in settings.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, expected a number.")


def injection_of(model: ModelPatcher) -> Injection | None:
    """Return the injection that earlier Applies have put on ``model``."""
    wrappers = model.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    return wrappers[0].__self__ if wrappers else None


def describe(model: ModelPatcher, applied: Applied) -> Target:
    """Return what has to be known of ``model``; raise ValueError if identity cannot enter it."""
    kind = type(model.model).__name__
    transformer = getattr(model.model, "diffusion_model", None)
    params = getattr(transformer, "params", None)
    if not isinstance(transformer, (Flux, Chroma)) or getattr(params, "global_modulation", False):
        name = "FLUX.2" if isinstance(transformer, Flux) else kind
        raise ValueError(
            f"PuLID-FLUX cannot be applied to this model ({name}, {type(transformer).__name__}). "
            f"It works with {SUPPORTED}, loaded with ComfyUI's own loaders (Load Diffusion Model)."
        )
    width = transformer.hidden_size
    if width != applied.pulid.dim:
        raise ValueError(
            f"The PuLID model {applied.pulid.name} is made for a FLUX model {applied.pulid.dim} "
            f"values wide, but this {kind} is {width} wide. Use the files made for each other."
        )
    layers = len(block_layers(len(transformer.double_blocks), len(transformer.single_blocks)))
    if layers > len(applied.pulid.layers):
        raise ValueError(
            f"This {kind} asks for {layers} identity layers, {applied.pulid.name} has "
            f"{len(applied.pulid.layers)}. The PuLID file is not made for a model this deep."
        )
    return Target(width, transformer.patch_size, layers, compute_dtype(model))


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """Return the dtype in which the model computes, whatever its weights are stored in."""
    # asked of the patcher, since ModelComputeDtype changes it for this patcher alone
    dtype = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    # loaders of other packs give their storage type here; their images are in 16 bit
    return dtype if dtype in (torch.float32, torch.float16) else torch.bfloat16
