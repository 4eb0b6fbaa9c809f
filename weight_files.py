"""Read model files so that a bad one says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.utils
import torch

Shapes = Mapping[str, torch.Size]


def read_state_dict(path: Path, what: str, advice: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the ``.safetensors``, ``.pt`` or ``.pth`` file ``path`` by key.

    Pickled files are read through torch's weights-only loader, so code in them cannot run.
    ``what`` names the wanted file and ``advice`` says where it comes from, both for messages.

    Raises FileNotFoundError if there is no such file and ValueError if it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what}: there is no file {path}. {advice}")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"version https://git-lfs")):
        raise ValueError(
            f"{what}: {path} ({size:,} bytes) is a web page or a pointer saved under a model's "
            f"name, not a model file. {advice}"
        )
    try:
        state_dict = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # every reader has its own exceptions for the same broken file
        raise ValueError(
            f"{what}: {path} ({size:,} bytes) cannot be read; it is damaged or not complete "
            f"({type(error).__name__}: {first_line(error)}). {advice}"
        ) from error
    if not isinstance(state_dict, dict):
        raise ValueError(f"{what}: {path} holds no tensors by name. {advice}")
    return {key: value for key, value in state_dict.items() if isinstance(value, torch.Tensor)}


def check_shapes(found: Shapes, expected: Shapes, what: str, advice: str) -> None:
    """Raise ValueError naming the first key that is missing, unexpected or of another size."""
    for key in sorted(expected.keys() - found.keys()):
        raise ValueError(f"{what}: tensor '{key}' is missing. {advice}")
    for key in sorted(found.keys() - expected.keys()):
        raise ValueError(f"{what}: tensor '{key}' is not part of this model. {advice}")
    for key in sorted(expected):
        if found[key] != expected[key]:
            raise ValueError(
                f"{what}: tensor '{key}' has shape {list(found[key])}, expected "
                f"{list(expected[key])}. {advice}"
            )


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, short enough for a message."""
    lines = str(error).splitlines() or [""]
    return lines[0][:200]
