"""Row of time: from photo to identity by stage, EVA-CLIP and the ID encoder at true size."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pulid_pack.encoders.detection import face_vector
from pulid_pack.encoders.eva_clip import EvaClip, encode_pixels, load_eva_clip
from pulid_pack.encoders.faces import (
    FaceAnalysis,
    align_face,
    detect_faces,
    face_features,
    load_face_analysis,
    order_faces,
    read_photos,
)
from pulid_pack.encoders.parsing import parse_faces
from pulid_pack.encoders.photo import annotate
from pulid_pack.encoders.pixels import normalise, whiten
from pulid_pack.identity.fusion import FusionOptions, make_identity
from pulid_pack.identity.id_encoder import encode_joint, encode_zeros
from pulid_pack.pulid_flux.checkpoint import PulidModel, load_pulid
from safetensors.torch import save_file
from standins.eva import eva_shapes
from standins.faces import write_face_pack, write_parsing
from torch import Tensor

from .report import Check, Column, Row, Settings
from .speed import filled, seconds, spread
from .true_size import EVA, pulid_shapes

FACE_PACK = "faces"  # under antelopev2's name, its files would be compared with the published ones
CPU = torch.device("cpu")
EVA_STAGE = "EVA-CLIP"
WHOLE = "photo to identity"


@dataclass(frozen=True)
class Models:
    """What the stages need, loaded."""

    analysis: FaceAnalysis
    eva: EvaClip
    pulid: PulidModel


def run(settings: Settings) -> Row:
    """Load the models, then time one photo and eight."""
    with tempfile.TemporaryDirectory() as scratch:
        write_true_files(Path(scratch), settings.pick(2, 20))
        models, loads = load_all(Path(scratch), settings.pick(2, 3))
        several = settings.pick(2, 8)
        whole(models, portrait())  # a warm-up
        stages = {
            1: staged(models, 1, settings.pick(1, 5)),
            several: staged(models, several, settings.pick(1, 3)),
        }
    records = [{"what": what, **entry} for what, entry in loads.items()]
    for what in stages[1]:
        one, more = (spread(stages[count][what]) for count in (1, several))
        records.append({"what": what, "one": one, "several": more})
    own = (times for what, times in stages[1].items() if what not in (EVA_STAGE, WHOLE))
    rest = [sum(turn) for turn in zip(*own, strict=True)]
    checks = [
        Check(
            "photo to identity without EVA-CLIP's forward, s", spread(rest)["median"], "at most", 1
        ),
        Check(
            "EVA-CLIP load from a warm disk, s",
            loads["load EVA-CLIP"]["one"]["median"],
            "at most",
            3,
        ),
    ]
    note = (
        "EVA-CLIP (float16 file) and the ID encoder at their true size with arbitrary weights, "
        "face models from permissive packages in antelopev2's layout (smaller than the real ones). "
        "Warm: the stages' first run is not counted."
    )
    columns = [
        Column("what", "stage"),
        Column("one", "1 photo, ms", "{:.0f}", 1e3),
        Column("several", f"{several} photos, ms", "{:.0f}", 1e3),
        Column("size", "MB", "{:.0f}", 1e-6),
    ]
    return Row("From photo to identity", note, columns, records, checks)


def load_all(folder: Path, rounds: int) -> tuple[Models, dict[str, dict]]:
    """Load every model ``rounds`` times; return them and how long it took."""
    pack = folder / FACE_PACK
    loaders: dict[str, tuple[Callable[[], Any], list[Path]]] = {
        "load face models": (
            lambda: load_face_analysis(pack, "CPU", folder / "parsing_bisenet.pth"),
            [*pack.glob("*.onnx"), folder / "parsing_bisenet.pth"],
        ),
        "load EVA-CLIP": (lambda: load_eva_clip(folder / "eva.pt"), [folder / "eva.pt"]),
        "load PuLID": (
            lambda: load_pulid(folder / "pulid.safetensors"),
            [folder / "pulid.safetensors"],
        ),
    }
    loaded, figures = [], {}
    for what, (load, files) in loaders.items():
        times = []
        for _ in range(rounds):
            model = None  # noqa: F841  the one before goes first
            start = time.perf_counter()
            model = load()
            times.append(time.perf_counter() - start)
        loaded.append(model)
        size = sum(file.stat().st_size for file in files)
        figures[what] = {"one": spread(times), "size": size}
    return Models(*loaded), figures


def staged(models: Models, count: int, rounds: int) -> dict[str, list[float]]:
    """Time every stage on ``count`` photos, then all of it as the node does it."""
    images = portrait().repeat(count, 1, 1, 1)
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        found = one_by_one(models, images)
        found[WHOLE] = seconds(lambda: whole(models, images), CPU)
        for what, taken in found.items():
            times.setdefault(what, []).append(taken)
    return times


def whole(models: Models, images: Tensor) -> None:
    """Do what Encode PuLID Identity does."""
    features = face_features(models.analysis, models.eva, images)
    make_identity(models.pulid.id_encoder, features.id_cond, features.hidden, FusionOptions())


def one_by_one(models: Models, images: Tensor) -> dict[str, float]:
    """Return seconds by stage for all photos together."""
    times: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        times[what] = times.get(what, 0.0) + time.perf_counter() - start
        return result

    analysis, eva = models.analysis, models.eva
    crops, vectors = [], []
    for photo in timed("prepare photos", lambda: read_photos(images)):
        crop, vector = face_stages(analysis, photo, timed)
        crops.append(crop)
        vectors.append(vector)
    pixels = timed("resize", lambda: normalise(torch.stack(crops), eva.image_size))
    pooled, hidden = timed(EVA_STAGE, lambda: encode_pixels(eva, pixels))
    id_cond = torch.cat((torch.stack(vectors), pooled), -1)
    timed("ID encoder", lambda: encode_joint(models.pulid.id_encoder, id_cond, hidden))
    timed("ID encoder, zero identity", lambda: encode_zeros(models.pulid.id_encoder, hidden))
    return times


def face_stages(analysis: FaceAnalysis, photo: np.ndarray, timed: Callable) -> tuple:
    """Return one photo's whitened crop and face vector."""
    faces = order_faces(timed("detection", lambda: detect_faces(analysis, photo)), "largest")
    timed("numbered boxes", lambda: annotate(photo, tuple(faces), 0))
    crop = timed("alignment", lambda: align_face(analysis, photo, faces[0]))
    vector = timed("recognition", lambda: face_vector(analysis.sessions, photo, faces[0], crop))
    aligned = torch.from_numpy(crop).float()[None] / 255
    labels = timed("parsing", lambda: parse_faces(analysis.parser, aligned))
    whitened = timed("whitening", lambda: whiten(aligned, labels))
    return whitened[0], torch.from_numpy(vector).float()


def portrait() -> Tensor:
    """Return NASA's portrait of Eileen Collins [1, 512, 512, 3]."""
    import skimage.data

    return torch.from_numpy(skimage.data.astronaut().copy()).float()[None] / 255


def write_true_files(folder: Path, layers: int) -> None:
    """Write EVA-CLIP in float16, PuLID in bfloat16 with ``layers`` layers, and the face models."""
    eva = {key: filled(s, i, torch.float16) for i, (key, s) in enumerate(eva_shapes(**EVA).items())}
    torch.save(eva, folder / "eva.pt")
    shapes = pulid_shapes(layers)
    pulid = {key: filled(s, i, torch.bfloat16) for i, (key, s) in enumerate(shapes.items())}
    save_file(pulid, folder / "pulid.safetensors")
    write_face_pack(folder / FACE_PACK)
    write_parsing(folder / "parsing_bisenet.pth")
