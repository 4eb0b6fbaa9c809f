"""Which model files there are, and where they were looked for."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import folder_paths

SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Kind:
    """A kind of model: where it lies, and what to tell somebody who has none."""

    what: str
    folders: tuple[str, ...]  # ComfyUI's folder names, the pack's own first
    wanted: str  # the file's usual name
    advice: str
    contains: str = ""  # in folders of other models, only names with this in them


PULID = Kind(
    "PuLID-FLUX model",
    ("pulid",),
    "pulid_flux_v0.9.1.safetensors",
    "about 1.1 GB, from https://huggingface.co/guozinan/PuLID",
)
EVA_CLIP = Kind(
    "EVA-CLIP model",
    ("eva_clip", "clip_vision", "text_encoders"),
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "about 0.9 GB, from https://huggingface.co/QuanSun/EVA-CLIP",
    contains="eva",
)
PARSING = Kind(
    "face parsing model",
    ("facexlib",),
    "parsing_bisenet.pth",
    "about 53 MB, from https://github.com/xinntao/facexlib/releases/tag/v0.2.0",
    contains="bisenet",
)
LANDMARKS = Kind(
    "face landmark model",
    ("facexlib",),
    "detection_Resnet50_Final.pth",
    "about 109 MB, from https://github.com/xinntao/facexlib/releases/tag/v0.1.0",
    contains="detection_resnet50",
)
FACE_PACK = Kind(
    "InsightFace model pack",
    ("insightface",),
    "antelopev2",
    "a folder with scrfd_10g_bnkps.onnx (17 MB) and glintr100.onnx (261 MB), unpacked from "
    "antelopev2.zip, from https://github.com/deepinsight/insightface/releases/tag/v0.7",
)
IDENTITY = Kind(
    "identity", ("pulid_identities",), "NAME.safetensors", "written by Save PuLID Identity"
)
OWN_FOLDERS = ("pulid", "eva_clip", "insightface", "facexlib", "pulid_identities")


def register() -> None:
    """Make the pack's folders known to ComfyUI, beside every models folder it already knows."""
    roots = [Path(folder_paths.models_dir)]
    for name in ("diffusion_models", "checkpoints", "vae", "loras"):
        roots += [Path(p).parent for p in folder_paths.get_folder_paths(name)]
    for name in OWN_FOLDERS:
        known = list(folder_paths.folder_names_and_paths.get(name, ([], set()))[0])
        for root in dict.fromkeys(roots):
            folder = root / name
            if str(folder) not in known and (root == roots[0] or folder.is_dir()):
                folder_paths.add_model_folder_path(name, str(folder))


def places(kind: Kind) -> list[Path]:
    """Return the folders in which files of this kind are looked for."""
    folders = [Path(p) for name in kind.folders for p in folder_paths.get_folder_paths(name)]
    if "facexlib" in kind.folders:  # where facexlib's own loader, and so the older packs, put them
        spec = importlib.util.find_spec("facexlib")
        if spec and spec.submodule_search_locations:
            folders.append(Path(spec.submodule_search_locations[0]) / "weights")
    return list(dict.fromkeys(folders))


def files(kind: Kind) -> dict[str, Path]:
    """Return the files of this kind by their name below the folder; the first folder wins."""
    own = {Path(p) for p in folder_paths.get_folder_paths(kind.folders[0])}
    found: dict[str, Path] = {}
    for folder in places(kind):
        shared = folder not in own or "facexlib" in kind.folders
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            if shared and kind.contains not in path.name.lower():
                continue
            found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def packs() -> dict[str, Path]:
    """Return the InsightFace packs: folders with .onnx files, flat or nested once."""
    found: dict[str, Path] = {}
    for root in places(FACE_PACK):
        for parent in (root / "models", root):
            for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
                holds = folder.is_dir() and (
                    any(folder.glob("*.onnx")) or any(folder.glob("*/*.onnx"))
                )
                if holds and folder != root / "models":
                    found.setdefault(folder.name, folder)
    return found


def options(kind: Kind) -> list[str]:
    """Return what a widget offers: what is there, else the usual name, for the error to explain."""
    found = packs() if kind is FACE_PACK else files(kind)
    names = sorted(found, key=lambda name: (Path(name).name != kind.wanted, name.lower()))
    return names or [kind.wanted]


def find(kind: Kind, name: str) -> Path:
    """Return the path of ``name``; raise FileNotFoundError telling all that was looked for."""
    found = packs() if kind is FACE_PACK else files(kind)
    if name in found:
        return found[name]
    looked = "".join(f"\n  {folder}" for folder in places(kind))
    there = f" There: {', '.join(sorted(found))}." if found else ""
    raise FileNotFoundError(
        f"{kind.what} '{name}' was not found.{there} Looked in:{looked}\n"
        f"Wanted: {kind.wanted}, {kind.advice}."
    )


def problem(kind: Kind, name: str) -> str | None:
    """Return why ``name`` cannot be used, for a node's validation, or None."""
    try:
        find(kind, name)
    except FileNotFoundError as error:
        return str(error)
    return None


def fingerprint(path: Path) -> list[str]:
    """Return what changes when a file, or a file in a folder, is replaced."""
    parts = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in parts]
