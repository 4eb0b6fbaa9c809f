"""Identities as files: NAME.safetensors with the ID tokens and, if wanted, a small picture.

Version 2 says the family, and carries the face vectors of the photos where they are known.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .identity import FAMILIES, FLUX, FaceVectors, Identity

FORMAT, VERSION = "pulid-flux-identity", "2"
READABLE = ("1", "2")  # version 1 knew one family, FLUX
LEFTOVER = (".saving-", ".tmp")  # how a file is called until it is finished
LEFTOVER_AGE = 3600.0  # seconds; a younger one may still be written
PREVIEW_SIDE = 256  # long edge of the picture that may ride along
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{n}{i}" for n in ("COM", "LPT") for i in range(1, 10))}


def checked_name(name: str) -> str:
    """Return ``name`` if it can be a file in the identities' folder, else raise ValueError."""
    name = name.strip().removesuffix(".safetensors")
    bad = set(name) & set('/\\:*?"<>|') or any(ord(c) < 32 for c in name)
    size = len(name.encode("utf-8", "surrogatepass"))
    bad = bad or any("\ud800" <= c <= "\udfff" for c in name)  # half a character
    if not name or size > 200 or bad or name.startswith(".") or name.endswith("."):
        shown = repr(name if len(name) <= 60 else name[:60] + "…")
        raise ValueError(
            f"{shown} cannot be the name of an identity: use 1 to 200 characters, no folders, no "
            'leading or trailing dot and none of / \\ : * ? " < > |'
        )
    if name.split(".")[0].strip().upper() in RESERVED:
        raise ValueError(f"'{name}' is a reserved file name on Windows: choose another.")
    return name


def save_identity(
    identity: Identity,
    path: Path,
    dtype: torch.dtype = torch.float32,
    preview: Tensor | None = None,
    overwrite: bool = True,
) -> None:
    """Write ``identity`` to ``path``, completely or not at all.

    ``preview`` [H, W, 3] in 0..1 is stored small, as bytes. Raises ValueError if the file exists
    and is not to be overwritten, or if the identity is empty; RuntimeError naming folder and reason
    if it cannot be written.
    """
    if identity.is_nobody:
        raise ValueError(
            f"The identity '{path.stem}' is empty, since no photo had a face: there is nothing to "
            "save. Use a photo with a face."
        )
    tensors = {
        "id_tokens": identity.id_tokens.to(dtype).contiguous(),
        "uncond_id_tokens": identity.uncond_id_tokens.to(dtype).contiguous(),
    }
    if preview is not None:
        tensors["preview"] = small_picture(preview)
    metadata = {"format": FORMAT, "version": VERSION, "family": identity.family}
    if faces := identity.faces:  # 2 kB a photo, exact in every precision
        tensors["face_vectors"] = faces.vectors.float().contiguous()
        metadata |= {"recogniser": faces.recogniser, "face_pack": faces.pack}
    content = save(tensors, metadata=metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        made = write_whole(content, path, overwrite)
    except OSError as error:
        raise RuntimeError(
            f"The identity '{path.stem}' could not be saved in {path.parent}: "
            f"{error.strerror or error}. Make room there, or make the folder writable."
        ) from error
    if not made:
        raise ValueError(
            f"There is an identity '{path.stem}' already ({path}). Choose another name, or "
            "switch overwrite on."
        )


def write_whole(content: bytes, path: Path, overwrite: bool) -> bool:
    """Write a file in one step; return False if it exists and is not to be overwritten."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=LEFTOVER[0], suffix=LEFTOVER[1])
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
        if not overwrite:
            return put_in_place(name, path)
        os.replace(name, path)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def put_in_place(name: str, path: Path) -> bool:
    """Give the file ``name`` its place, or return False if that is taken; one of several wins."""
    try:
        os.link(name, path)
        return True
    except FileExistsError:
        return False
    except OSError:  # this disk has no hard links (FAT, some network drives)
        return claim_place(name, path)


def claim_place(name: str, path: Path) -> bool:
    """Do the same with an empty file that only one can make; the finished one replaces it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    try:
        os.replace(name, path)
    except OSError:
        os.unlink(path)
        raise
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files of runs that were ended while they saved."""
    for path in folder.glob("*".join(LEFTOVER)):
        with contextlib.suppress(OSError):  # another user's, or already gone
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE:
                path.unlink()


def load_identity(path: Path) -> tuple[Identity, Tensor | None]:
    """Return the identity in ``path`` and its picture [H, W, 3] in 0..1, if it has one.

    Raises FileNotFoundError, or ValueError naming the file and what it lacks.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no identity file {path}. Save one first.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # copied: the file is mapped, and may be overwritten while the identity is in use
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size:,} bytes) is not a complete safetensors file: {error}. "
            "Save the identity again."
        ) from error
    found = (metadata.get("format"), metadata.get("version"))
    if found[0] != FORMAT or found[1] not in READABLE:
        raise ValueError(
            f"{path} is not an identity file: its format and version are {found[0]} and "
            f"{found[1]}, expected {FORMAT} and {' or '.join(READABLE)}."
        )
    family = metadata.get("family", FLUX)
    if family not in FAMILIES:
        raise ValueError(
            f"{path}: its family is {family}, expected one of {', '.join(FAMILIES)}. It may have "
            "been saved by a newer version of this pack."
        )
    tokens = [check_tokens(tensors, key, path) for key in ("id_tokens", "uncond_id_tokens")]
    if tokens[0].shape[-1] != tokens[1].shape[-1]:
        raise ValueError(f"{path}: id_tokens and uncond_id_tokens have different widths.")
    preview = tensors.get("preview")
    identity = Identity(*tokens, family, face_vectors(tensors, metadata, path))
    return identity, None if preview is None else preview.float() / 255


def face_vectors(
    tensors: dict[str, Tensor], metadata: dict[str, str], path: Path
) -> FaceVectors | None:
    """Return the face vectors [M, 512] in a file, if it has any; ValueError if they are damaged."""
    vectors = tensors.get("face_vectors")
    if vectors is None:
        return None
    usable = vectors.ndim == 2 and 0 not in vectors.shape and vectors.is_floating_point()
    if not usable or not torch.isfinite(vectors).all() or "recogniser" not in metadata:
        raise ValueError(
            f"{path}: its face vectors are damaged: they have shape {list(vectors.shape)} and are "
            f"of recogniser {metadata.get('recogniser')}, expected [photos, 512] finite numbers "
            "and its name. Save the identity again."
        )
    return FaceVectors(vectors.float(), metadata["recogniser"], metadata.get("face_pack", ""))


def check_tokens(tensors: dict[str, Tensor], key: str, path: Path) -> Tensor:
    """Return ``key``'s tokens [1, T, C] in float32; raise ValueError if they cannot be used."""
    tokens = tensors.get(key)
    if tokens is None:
        raise ValueError(f"{path}: tensor '{key}' is missing.")
    if tokens.ndim != 3 or tokens.shape[0] != 1 or 0 in tokens.shape:
        raise ValueError(
            f"{path}: '{key}' has shape {list(tokens.shape)}, expected [1, tokens, width]."
        )
    if tokens.dtype not in (torch.float16, torch.float32):
        raise ValueError(f"{path}: '{key}' is {tokens.dtype}, expected float16 or float32.")
    if not torch.isfinite(tokens).all():
        raise ValueError(f"{path}: '{key}' has values that are not numbers.")
    return tokens.float()


def small_picture(image: Tensor) -> Tensor:
    """[H, W, 3] in 0..1 -> the same as bytes, its long edge at most 256."""
    height, width = image.shape[:2]
    scale = min(1.0, PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = torch.nn.functional.interpolate(
        image[None, ..., :3].movedim(-1, 1).float(), size, mode="bilinear", antialias=True
    )
    return (picture[0].movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
