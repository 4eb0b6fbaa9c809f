"""insightface's detector and recogniser: finding their files, opening and releasing them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from ..state_dicts import check_download, megabytes
from .packages import require
from .providers import (
    CPU,
    PROVIDERS,
    PURPOSE,
    choose_provider,
    prepare_libraries,
    provider_arguments,
)

log = logging.getLogger(__name__)

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
RECOGNISER = "glintr100.onnx"
WANTED = "scrfd_10g_bnkps.onnx (detector, 16.9 MB) and glintr100.onnx (recogniser, 260.7 MB)"


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


class FaceSessions:
    """The two onnxruntime models of a pack, on ``provider`` (a key of PROVIDERS).

    onnxruntime's memory is its own: the host can neither move it nor count it. On the CPU the
    sessions live as long as this object; on an accelerator, from the first use to ``rest``.
    """

    def __init__(self, pack: Path, provider: str):
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
            if self.loads > 1 and self.at_work != self.provider:
                log.warning("%s could not be started again; using the CPU instead.", self.provider)
        return self.models[task]

    @property
    def at_work(self) -> str:
        """What the open sessions really run on: the provider, or the CPU where it did not start."""
        running = {model.session.get_providers()[0] for model in self.models.values()}
        return self.provider if running == {PROVIDERS[self.provider]} else CPU

    @property
    def recogniser(self) -> str:
        """File name of the recogniser whose vectors PuLID reads."""
        return Path(self.get("recognition").model_file).name

    def rest(self) -> None:
        """Release an accelerator's memory until the next use."""
        if self.models and self.at_work != CPU:
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
    try:
        return model_zoo.get_model(str(file), **provider_arguments(provider))
    except Exception as error:  # onnx and onnxruntime have no common class for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{file} cannot be opened as an ONNX model: it is truncated or damaged. Found "
            f"{megabytes(file)}, expected {expected}. Download it again. (Reader: {reason})"
        ) from error


def open_sessions(pack: Path, provider: str) -> tuple[FaceSessions, tuple[str, ...]]:
    """Open the pack with ``provider`` ("auto" or a key of PROVIDERS).

    Returns the sessions and notes for the user: what they really run on where that is not what
    was asked for, and a pack that PuLID was not trained with. Raises as the functions above.
    """
    require("insightface", PURPOSE)
    chosen, notes = choose_provider(provider)
    prepare_libraries(chosen)
    sessions = FaceSessions(pack, chosen)
    recogniser = sessions.recogniser
    if sessions.at_work != chosen:
        notes += (
            f"onnxruntime offers {chosen} but could not start it: the face models run on the "
            f"{sessions.at_work}. Its libraries are missing or of another version (the log has "
            f"onnxruntime's own lines).",
        )
    if not is_antelopev2(recogniser):
        notes += (
            f"{sessions.pack.name} is not antelopev2 (its recogniser is {recogniser}): another "
            f"face space, low likeness. PuLID was trained with antelopev2's {RECOGNISER}.",
        )
    compare_with_published(sessions)
    return sessions, notes


def is_antelopev2(recogniser: str) -> bool:
    """Return whether a recogniser of this file name gives the vectors that PuLID was trained with.

    The name decides, so that a model made to take its place may do so.
    """
    return recogniser == RECOGNISER


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
