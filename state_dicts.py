"""Weight files: read without running code in them, and compared with what a model needs.

Both cores read files; this is the one thing they share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import comfy.utils
import torch
from safetensors import safe_open


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
    """Read the tensors of ``path`` (.safetensors, .pt, .pth or .bin) through a weights-only load.

    Groups of tensors, as some pickled files have them, become names with a dot.
    ``expected`` names the right file and its size. Raises FileNotFoundError, or ValueError for a
    truncated file, a web page, values that are not numbers, or anything but named tensors.
    """
    check_download(path, expected)
    try:
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # garbage fails in as many ways as the readers have lines
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as model weights: it is truncated, or not such a file. Found "
            f"{megabytes(path)}, expected {expected}. Download it again. (Reader: {reason})"
        ) from error
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(f"{path} holds no named tensors. Expected {expected}.")
    tensors = flattened(tensors)
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise ValueError(
                f"{path} holds more than named tensors ({key!r} is a {kind}). Expected {expected}."
            )
    check_numbers(tensors, path)
    return dict(tensors)


def flattened(tensors: Mapping) -> dict:
    """Return {group: {name: tensor}} as {"group.name": tensor}; what is flat stays as it is."""
    flat: dict = {}
    for key, value in tensors.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": one for name, one in value.items()}
        else:
            flat[key] = value
    return flat


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file that has been read before; others have none."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return {}
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})


def check_numbers(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise ValueError naming the first tensor of ``path`` with NaN or infinite values."""
    for key, value in tensors.items():
        if not value.is_floating_point():
            continue
        # one pass over the weights; only a sum that is not finite is looked at more closely
        wide = value if value.itemsize > 1 else value.float()  # 8-bit floats have no sum
        total = wide.sum(dtype=torch.float32)
        if not torch.isfinite(total) and not torch.isfinite(wide).all():
            raise ValueError(
                f"{path}: tensor '{key}' has values that are not numbers (NaN or infinite). The "
                f"file is damaged, or was converted wrongly: download it again."
            )


def check_floats(tensors: Mapping[str, torch.Tensor], what: str, advice: str) -> None:
    """Raise ValueError naming the first tensor that is no float; ``what`` names the file."""
    for key, value in tensors.items():
        if not value.is_floating_point():
            raise ValueError(f"{what}: tensor '{key}' is {value.dtype}, not a float. {advice}")


def check_shapes(
    found: Mapping[str, torch.Size],
    wanted: Mapping[str, torch.Size],
    what: str,
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Raise ValueError naming the first key that is missing, unexpected or of another size.

    ``what`` names the file and ``name_in_file`` turns a model's key into the file's, for messages.
    """
    for kind, keys in (
        ("lacks", [key for key in wanted if key not in found]),
        ("has the unexpected key", [key for key in found if key not in wanted]),
    ):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise ValueError(
                f"{what} {kind} {name_in_file(keys[0])}{more}. Download the file again or choose "
                f"the right one."
            )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise ValueError(
                f"{what}: {name_in_file(key)} has shape {list(found[key])}, expected {list(shape)}."
            )
