"""Weight files of the torch models: read without running code, loaded strictly, held by ComfyUI."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from safetensors import SafetensorError

UNREADABLE = (RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError)


def megabytes(path: Path) -> str:
    """Return the size of ``path`` for a message, such as "12.3 MB (12345678 bytes)"."""
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB ({size} bytes)"


def check_download(path: Path, expected: str) -> None:
    """Raise FileNotFoundError or ValueError if ``path`` is absent, empty, a web page or a pointer.

    ``expected`` names the right file and its size, for the message.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Expected {expected}.")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    found = ""
    if not start:
        found = "it is empty"
    elif start[:1] == b"<":
        found = "it is a web page, not a model"
    elif start.startswith(b"version https://git-lfs"):
        found = "it is a git-lfs pointer, not the model itself"
    if found:
        raise ValueError(
            f"{path} is not usable: {found}. Found {megabytes(path)}, expected {expected}. "
            f"Download it again."
        )


def read_state_dict(path: Path, expected: str) -> dict[str, torch.Tensor]:
    """Read the tensors of ``path`` (.safetensors, .pt or .pth) through a weights-only load.

    ``expected`` names the right file and its size. Raises FileNotFoundError, or ValueError for a
    truncated file, a web page, or a file that holds anything but named tensors.
    """
    check_download(path, expected)
    try:
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    except (*UNREADABLE, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as model weights: it is truncated, or not such a file. Found "
            f"{megabytes(path)}, expected {expected}. Download it again. (Reader: {reason})"
        ) from error
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(f"{path} holds no named tensors. Expected {expected}.")
    others = [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if others:
        kind = type(tensors[others[0]]).__name__
        raise ValueError(
            f"{path} holds more than tensors ({others[0]} is a {kind}). Expected {expected}."
        )
    return dict(tensors)


def load_strictly(
    model: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    path: Path,
    dtype: torch.dtype,
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Give ``model`` (built on the meta device) exactly ``tensors``, in ``dtype``.

    ``name_in_file`` turns a key of the model into the key of the file, for messages. Raises
    ValueError naming the first missing, unexpected or mis-sized key.
    """
    wanted = model.state_dict()
    for kind, keys in (
        ("lacks", [key for key in wanted if key not in tensors]),
        ("has the unexpected key", [key for key in tensors if key not in wanted]),
    ):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise ValueError(
                f"{path} {kind} {name_in_file(keys[0])}{more}; it does not fit "
                f"{type(model).__name__}. Download the file again or choose the right one."
            )
    for key, value in wanted.items():
        if tensors[key].shape != value.shape:
            raise ValueError(
                f"{path}: {name_in_file(key)} has shape {list(tensors[key].shape)}, "
                f"expected {list(value.shape)}."
            )
    model.requires_grad_(False)
    ready = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
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
    """Return where the weights lie: under --novram the host may leave them beside the CPU."""
    return next(model.parameters()).device
