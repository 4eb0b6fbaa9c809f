"""insightface's detector and recogniser: finding their files, provider, and life in memory."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

from ..state_dicts import check_download, megabytes
from .packages import require

log = logging.getLogger(__name__)

PURPOSE = "Load InsightFace"
DETECTOR_SIDE = 640
THRESHOLD = 0.5

# antelopev2 as insightface publishes it: size in bytes and sha256.
ANTELOPEV2 = {
    "scrfd_10g_bnkps.onnx": (
        16_923_827,
        "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
    ),
    "glintr100.onnx": (
        260_665_334,
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    ),
}
WANTED = "scrfd_10g_bnkps.onnx (detector, 16.9 MB) and glintr100.onnx (recogniser, 260.7 MB)"

PROVIDERS = {
    "CUDA": "CUDAExecutionProvider",
    "ROCM": "ROCMExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "CPU": "CPUExecutionProvider",
}


def choose_provider(provider: str) -> str:
    """Return the provider to use: ``auto`` takes the first that onnxruntime offers.

    Raises ValueError, listing what is offered, for one that is not.
    """
    onnxruntime = require("onnxruntime", PURPOSE)
    available = onnxruntime.get_available_providers()
    offered = [name for name, full in PROVIDERS.items() if full in available]
    if provider == "auto":
        return offered[0]
    if provider not in PROVIDERS:
        raise ValueError(f"Unknown provider {provider!r}; choose auto or one of {list(PROVIDERS)}.")
    if provider not in offered:
        raise ValueError(
            f"onnxruntime does not offer the provider {provider} here; it offers "
            f"{', '.join(offered)}. Choose auto or one of these, or install the onnxruntime build "
            f"for {provider} in place of the present one."
        )
    return provider


def find_models(pack: Path) -> list[Path]:
    """Return the .onnx files of a model pack, which may lie one folder deeper.

    Raises FileNotFoundError telling what was looked for and found.
    """
    pack = Path(pack)
    if not pack.is_dir():
        raise FileNotFoundError(f"The model pack {pack} does not exist. Wanted there: {WANTED}.")
    deeper = sorted(p for p in pack.iterdir() if p.is_dir())
    deeper.sort(key=lambda folder: folder.name != pack.name)
    for folder in (pack, *deeper):
        files = sorted(folder.glob("*.onnx"))
        if files:
            # The files with the known names first, so that the others need not be opened.
            return sorted(files, key=lambda file: file.name not in ANTELOPEV2)
    found = ", ".join(sorted(p.name for p in pack.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"The model pack {pack} holds no .onnx file, neither directly nor one folder deeper. "
        f"Wanted: {WANTED}. Found: {found}. Unpack antelopev2.zip there."
    )


class FaceSessions(torch.nn.Module):
    """The two onnxruntime models of a pack; a module so that the host can evict them.

    onnxruntime's memory cannot be moved, so unloading drops the sessions and the next use makes
    them anew.
    """

    def __init__(self, pack: Path, provider: str):
        super().__init__()
        self.files = find_models(pack)
        self.pack = self.files[0].parent
        self.provider = provider
        self.loads = 0
        self.models: dict[str, Any] = {}

    def get(self, task: str) -> Any:
        """Return insightface's model for ``task``: "detection" or "recognition"."""
        if not self.models:
            self.models = open_models(self.files, self.pack, self.provider)
            self.loads += 1
        return self.models[task]

    def release(self) -> None:
        """Drop the sessions and their memory."""
        self.models = {}


def open_models(files: list[Path], pack: Path, provider: str) -> dict[str, Any]:
    """Open the first detector and the first recogniser among ``files``.

    Raises ValueError for a damaged file, FileNotFoundError where one of the two is missing.
    """
    models: dict[str, Any] = {}
    for file in files:
        model = open_model(file, provider)
        task = getattr(model, "taskname", None)
        if task in ("detection", "recognition") and task not in models:
            models[task] = model
        if len(models) == 2:
            break
    for task, what in (("detection", "face detector"), ("recognition", "face recogniser")):
        if task not in models:
            raise FileNotFoundError(
                f"The model pack {pack} has no {what}. Wanted: {WANTED}. "
                f"Found: {', '.join(file.name for file in files)}."
            )
    models["detection"].prepare(0, input_size=(DETECTOR_SIDE, DETECTOR_SIDE), det_thresh=THRESHOLD)
    if not getattr(models["detection"], "use_kps", False):
        raise ValueError(
            f"The face detector in {pack} gives no keypoints, and alignment needs them. "
            f"Wanted: {WANTED}."
        )
    return models


def open_model(file: Path, provider: str) -> Any:
    """Open one .onnx file with insightface; ValueError naming the file if it is damaged."""
    model_zoo = require("insightface.model_zoo", PURPOSE)
    size = ANTELOPEV2.get(file.name, (0, ""))[0]
    expected = f"{size / 1e6:.1f} MB" if size else "an ONNX model"
    check_download(file, f"{file.name} ({expected})")
    wanted = [PROVIDERS[provider]]
    if provider != "CPU":
        wanted.append(PROVIDERS["CPU"])
    try:
        return model_zoo.get_model(str(file), providers=wanted)
    except Exception as error:  # onnx and onnxruntime have no common class for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{file} cannot be opened as an ONNX model: it is truncated or damaged. Found "
            f"{megabytes(file)}, expected {expected}. Download it again. (Reader: {reason})"
        ) from error


def open_sessions(pack: Path, provider: str) -> tuple[ModelPatcher, str]:
    """Open the pack with ``provider`` ("auto" or a key of PROVIDERS), under the host's care.

    Returns the patcher of a FaceSessions and the provider at work. Raises as the functions above,
    and RuntimeError where onnxruntime offers the chosen accelerator but cannot start it.
    """
    require("insightface", PURPOSE)
    chosen = choose_provider(provider)
    sessions = FaceSessions(pack, chosen)
    at_work = sessions.get("recognition").session.get_providers()[0]
    names = {full: name for name, full in PROVIDERS.items()}
    actual = names.get(at_work, at_work)
    if actual != chosen:
        if provider != "auto":
            raise RuntimeError(
                f"onnxruntime offers {chosen} but could not start it (it fell back to {actual}). "
                f"Choose CPU or auto, or repair the {chosen} libraries."
            )
        log.warning("onnxruntime could not start %s; the face models run on %s.", chosen, actual)
    compare_with_published(sessions)
    cpu = torch.device("cpu")
    patcher = ModelPatcher(
        sessions,
        load_device=cpu if actual == "CPU" else comfy.model_management.get_torch_device(),
        offload_device=cpu,
        size=sum(Path(m.model_file).stat().st_size for m in sessions.models.values()),
    )
    patcher.add_callback(CallbacksMP.ON_DETACH, release_sessions)
    return patcher, actual


def release_sessions(patcher: ModelPatcher, unloaded: bool) -> None:
    """Drop the sessions when the host unloads them; it also detaches, and keeps, on each load."""
    if unloaded:
        patcher.model.release()


def compare_with_published(sessions: FaceSessions) -> None:
    """Warn where a pack called antelopev2 holds other files than the published ones."""
    if sessions.pack.name != "antelopev2":
        return
    for file in sessions.files:
        size, digest = ANTELOPEV2.get(file.name, (0, ""))
        if size and (file.stat().st_size != size or sha256(file) != digest):
            log.warning(
                "%s is not the published antelopev2 file: found %s, expected %d bytes with sha256 "
                "%s. Likeness will differ from PuLID's.",
                file,
                megabytes(file),
                size,
                digest,
            )


def sha256(path: Path) -> str:
    """Return the hex digest of ``path``."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
