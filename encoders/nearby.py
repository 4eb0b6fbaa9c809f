"""Model files that other programs left nearby: read where they lie, or named for the user to move.

Nothing is downloaded, unpacked or moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .sessions import ANTELOPEV2

NAME = "antelopev2"
OPEN_CLIP_REPOSITORY = "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k"
# EVA-CLIP as the Hugging Face cache may hold it: the original, and what open_clip downloads.
EVA_CLIP_CACHED = (
    ("QuanSun/EVA-CLIP", "EVA02_CLIP_L_336_psz14_s6B.pt"),
    (OPEN_CLIP_REPOSITORY, "open_clip_model.safetensors"),
    (OPEN_CLIP_REPOSITORY, "open_clip_pytorch_model.bin"),
)


def nearby_packs(folders: Iterable[Path]) -> dict[str, Path]:
    """Return antelopev2, by its name, where it lies outside a folder of its own; else nothing.

    Its two files may lie loose in one of the insightface ``folders``; insightface itself keeps
    the pack in the user's home.
    """
    for folder in with_models(folders):
        if all((folder / name).is_file() for name in ANTELOPEV2):
            return {NAME: folder}
    home = insightface_home() / "models" / NAME
    return {NAME: home} if any(home.glob("*.onnx")) or any(home.glob("*/*.onnx")) else {}


def unusable_nearby(folders: Iterable[Path]) -> str:
    """Return sentences about what lies in the insightface ``folders`` or home and needs a hand.

    Archives have to be unpacked, single .onnx files put into a folder; "" where there are none.
    """
    places = with_models([*folders, insightface_home()])
    zipped = [str(path) for place in places for path in sorted(place.glob("*.zip"))]
    loose = [str(path) for place in places for path in sorted(place.glob("*.onnx"))]
    text = f" Still zipped, to be unpacked there: {', '.join(zipped)}." if zipped else ""
    if loose:
        text += f" Lying loose, belongs into a folder {NAME} there: {', '.join(loose)}."
    return text


def with_models(folders: Iterable[Path]) -> list[Path]:
    """Return each of ``folders`` and its ``models``, in which insightface keeps its packs."""
    return list(dict.fromkeys(place for one in folders for place in (one / "models", one)))


def insightface_home() -> Path:
    """Return the folder into which insightface itself downloads."""
    return Path(os.path.expanduser("~/.insightface"))


def cached_eva_clip() -> dict[str, Path]:
    """Return EVA-CLIP's files in the Hugging Face cache by name; the network is not asked."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # a host without it has no such cache
        return {}
    found: dict[str, Path] = {}
    for repository, file in EVA_CLIP_CACHED:
        path = try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            own = repository == OPEN_CLIP_REPOSITORY
            found[f"{repository}/{file}" if own else file] = Path(path)
    return found
