"""Third-party models: loaded with exactly the weights of a file, and managed by ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch

from ..state_dicts import check_shapes


def load_strictly(
    model: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    path: Path,
    dtype: torch.dtype,
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Give ``model`` (built on the meta device) copies of exactly ``tensors``, in ``dtype``.

    ``name_in_file`` turns a key of the model into the key of the file, for messages. Raises
    ValueError naming the first missing, unexpected or mis-sized key, or whole numbers for weights.
    """
    found = {key: value.shape for key, value in tensors.items()}
    own = model.state_dict()
    check_shapes(found, {k: v.shape for k, v in own.items()}, str(path), name_in_file)
    for key, value in tensors.items():
        if own[key].is_floating_point() and not value.is_floating_point():
            raise ValueError(
                f"{path}: tensor '{name_in_file(key)}' is {value.dtype}, not a float. Download the "
                f"file again or choose the right one."
            )
    model.requires_grad_(False)
    # Copies: a tensor that stays mapped from its file changes, or crashes, when that is replaced.
    ready = {
        k: v.to(dtype if v.is_floating_point() else v.dtype, copy=True) for k, v in tensors.items()
    }
    model.load_state_dict(ready, strict=True, assign=True)
    model.eval()


def hold(model: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    """Put ``model`` under the host's memory management, on the devices of its text encoders.

    The models are third-party modules without the host's cast operations, so the plain patcher,
    which moves them whole, is the one that fits.
    """
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )


def on_device(patcher: comfy.model_patcher.ModelPatcher, memory: int = 0) -> torch.nn.Module:
    """Return the model of ``patcher``, loaded; ``memory`` is what its run takes, in bytes."""
    comfy.model_management.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    return patcher.model


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device of the weights: under --novram the host may leave them on the CPU."""
    return next(model.parameters()).device
