"""Which model files there are, and where they were looked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import folder_paths

SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Kind:
    """A kind of model: where it is looked for, and what to tell a user who has none."""

    what: str
    folders: tuple[str, ...]  # ComfyUI's folder names, the pack's own first
    wanted: str  # the file's usual name
    advice: str
    contains: str = ""  # in folders of other models, only names with this in them
    unlikely: tuple[str, ...] = ()  # names with these in them are listed last
    # at Hugging Face, whose cache may hold the file already; and what is in its name there
    repositories: Mapping[str, str] = field(default_factory=dict)


PULID = Kind(
    "PuLID-FLUX model",
    ("pulid",),
    "pulid_flux_v0.9.1.safetensors",
    "about 1.1 GB, from https://huggingface.co/guozinan/PuLID",
    contains="pulid_flux",
    unlikely=("sdxl", "pulid_v1"),
    repositories={"guozinan/PuLID": "pulid_flux"},
)
PULID_SDXL = Kind(
    "PuLID-SDXL model",
    ("pulid",),
    "pulid_v1.1.safetensors",
    "984 MB, or pulid_v1.bin, 791 MB, both from https://huggingface.co/guozinan/PuLID",
    contains="pulid_v1",
    unlikely=("flux",),
    repositories={"guozinan/PuLID": "pulid_v1"},
)
EVA_CLIP = Kind(
    "EVA-CLIP model",
    ("eva_clip", "clip_vision", "text_encoders"),
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "about 0.9 GB, from https://huggingface.co/QuanSun/EVA-CLIP",
    contains="eva",
    repositories={
        "QuanSun/EVA-CLIP": "eva",
        "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k": "open_clip",  # open_clip's own
    },
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
LOOSE_PACK = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")  # antelopev2's, without their folder


def register() -> None:
    """Make the pack's folders known to ComfyUI, next to every models folder it already knows."""
    roots = [Path(folder_paths.models_dir)]
    for name in ("diffusion_models", "checkpoints", "vae", "loras"):
        roots += [Path(p).parent for p in folder_paths.get_folder_paths(name)]
    for name in OWN_FOLDERS:
        known = list(folder_paths.folder_names_and_paths.get(name, ([], set()))[0])
        for root in dict.fromkeys(roots):
            folder = root / name
            if str(folder) not in known and (root == roots[0] or folder.is_dir()):
                folder_paths.add_model_folder_path(name, str(folder))
    # programs put files there by /upload/image; last, since Save writes into the first folder
    uploaded = Path(folder_paths.get_input_directory()) / IDENTITY.folders[0]
    folder_paths.add_model_folder_path(IDENTITY.folders[0], str(uploaded))


def places(kind: Kind) -> list[Path]:
    """Return the folders in which files of this kind are looked for."""
    folders = [Path(p) for name in kind.folders for p in folder_paths.get_folder_paths(name)]
    return list(dict.fromkeys([*folders, *places_of_others(kind)]))


def places_of_others(kind: Kind) -> dict[Path, str]:
    """Return folders of other programs with the same files, and what is in those files' names."""
    folders = {}
    if "facexlib" in kind.folders:  # where facexlib's own loader, and so the older packs, put them
        spec = importlib.util.find_spec("facexlib")
        if spec and spec.submodule_search_locations:
            folders[Path(spec.submodule_search_locations[0]) / "weights"] = kind.contains
    if kind is FACE_PACK:  # insightface's own
        folders[home() / ".insightface"] = kind.contains
    for repository, contains in kind.repositories.items():
        cached = "models--" + repository.replace("/", "--")
        for snapshot in sorted((hugging_face_cache() / cached / "snapshots").glob("*")):
            folders[snapshot] = contains
    return folders


def hugging_face_cache() -> Path:
    """Return where huggingface_hub keeps what it downloads."""
    if hub := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(hub)
    own = os.environ.get("HF_HOME")
    return (Path(own) if own else home() / ".cache" / "huggingface") / "hub"


def home() -> Path:
    """Return the user's folder; unlike Path.home() it does not fail where there is none."""
    return Path(os.path.expanduser("~"))


def files(kind: Kind) -> dict[str, Path]:
    """Return the files of this kind by their name below the folder; the first folder wins."""
    found: dict[str, Path] = {}
    for name in kind.folders:
        all_ours = name == kind.folders[0] and name != "facexlib"
        for relative in folder_paths.get_filename_list(name):
            path = folder_paths.get_full_path(name, relative)
            if path and is_weights(relative, "" if all_ours else kind.contains):
                found.setdefault(Path(relative).as_posix(), Path(path))
    for folder, contains in places_of_others(kind).items():
        for relative in sorted(folder_paths.recursive_search(str(folder), [".git"])[0]):
            if is_weights(relative, contains):
                found.setdefault(Path(relative).as_posix(), folder / relative)
    return found


def is_weights(name: str, contains: str) -> bool:
    """Whether a file of that name may hold weights, and has ``contains`` in its name."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and contains in path.name.lower()


def packs() -> dict[str, Path]:
    """Return the InsightFace packs: folders with .onnx files, flat or nested once."""
    found: dict[str, Path] = {}
    loose = None
    for root in places(FACE_PACK):
        for parent in (root / "models", root):
            for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
                holds = folder.is_dir() and (
                    any(folder.glob("*.onnx")) or any(folder.glob("*/*.onnx"))
                )
                if holds and folder != root / "models":
                    found.setdefault(folder.name, folder)
            if loose is None and {p.name for p in parent.glob("*.onnx")} >= set(LOOSE_PACK):
                loose = parent
    if loose is not None:
        found.setdefault(FACE_PACK.wanted, loose)
    return found


def options(kind: Kind) -> list[str]:
    """Return what a widget offers: what is there, else the usual name, for the error to explain.

    The face pack that PuLID was trained with is offered, and is the default, even when it is
    absent: another pack has other embeddings, and users should only get one by choosing it.
    """
    found = packs() if kind is FACE_PACK else files(kind)

    def order(name: str) -> tuple[bool, bool, str]:
        low = Path(name).name.lower()
        return low != kind.wanted.lower(), any(part in low for part in kind.unlikely), name.lower()

    names = sorted(found, key=order)
    if kind is FACE_PACK and kind.wanted not in found:
        return [kind.wanted, *names]
    return names or [kind.wanted]


def find(kind: Kind, name: str) -> Path:
    """Return the path of ``name``; raise FileNotFoundError naming all that was searched."""
    found = packs() if kind is FACE_PACK else files(kind)
    if name in found:
        return found[name]
    looked = "".join(f"\n  {folder}" for folder in places(kind))
    there = f" There: {', '.join(sorted(found))}." if found else ""
    raise FileNotFoundError(
        f"{kind.what} '{name}' was not found.{there}{nearby(kind)} Looked in:{looked}\n"
        f"Wanted: {kind.wanted}, {kind.advice}."
    )


def nearby(kind: Kind) -> str:
    """Say what lies in the face packs' folders and is of no use as it is, or nothing."""
    if kind is not FACE_PACK:
        return ""
    parents = [p for root in places(kind) for p in (root, root / "models") if p.is_dir()]
    zips = [str(path) for parent in parents for path in sorted(parent.glob("*.zip"))]
    loose = [str(path) for parent in parents for path in sorted(parent.glob("*.onnx"))]
    text = f" Still zipped, unpack it into a folder of its name: {', '.join(zips)}." if zips else ""
    if loose:
        text += f" Not in the folder of a pack, move them into one: {', '.join(loose)}."
    return text


def problem(kind: Kind, name: str | None) -> str | None:
    """Return why ``name`` cannot be used, for a node's validation, or None.

    A name that comes from a link is None here; execute looks at it when it is known.
    """
    try:
        if name is not None:
            find(kind, name)
    except FileNotFoundError as error:
        return str(error)
    return None


def fingerprint(kind: Kind, name: str | None) -> list[str]:
    """Return what changes when a file, or a file in a folder, is replaced.

    A name that comes from a link is None here; what it is changes with the node behind the link.
    """
    if name is None:
        return []
    path = find(kind, name)
    parts = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in parts]
