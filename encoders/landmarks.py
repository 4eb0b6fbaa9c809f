"""RetinaFace's keypoints, which the authors align with, matched to a face by overlap."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher

from ..state_dicts import read_state_dict
from .detection import Face, overlap
from .packages import require
from .weights import device_of, hold, load_strictly, on_device

log = logging.getLogger(__name__)

EXPECTED = "detection_Resnet50_Final.pth (RetinaFace with ResNet-50, about 109 MB)"
CONFIDENCE = 0.97
BGR_MEAN = (104.0, 117.0, 123.0)
# Two detectors' boxes of the same face overlap by more than this; those of neighbours by less.
SAME_FACE = 0.3
# Feature maps of a 1024x1024 photo, measured generously, in bytes.
RUN_MEMORY = 1024 * 1024 * 1024


def load_landmarks(path: Path) -> ModelPatcher:
    """Load facexlib's RetinaFace from ``path``.

    Raises FileNotFoundError, ValueError for another or a damaged file, and RuntimeError if facexlib
    is missing.
    """
    retinaface = require("facexlib.detection.retinaface", "Load InsightFace (RetinaFace)")
    path = Path(path)
    tensors = read_state_dict(path, EXPECTED)
    prefix = "module." if all(key.startswith("module.") for key in tensors) else ""
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if "ClassHead.0.conv1x1.weight" not in tensors or "body.conv1.weight" not in tensors:
        some = ", ".join(sorted(tensors)[:3])
        raise ValueError(
            f"{path} is not a RetinaFace model. Expected {EXPECTED}; found tensors such as {some}."
        )
    with torch.device("meta"), warnings.catch_warnings():
        # facexlib passes torchvision an argument by its old name.
        warnings.simplefilter("ignore", UserWarning)
        model = retinaface.RetinaFace("resnet50", device=torch.device("meta"))
    model.device = None
    load_strictly(model, tensors, path, torch.float32, lambda key: prefix + key)
    return hold(model)


def landmark_faces(landmarks: ModelPatcher, photo: np.ndarray) -> list[Face]:
    """Find the faces in ``photo`` [H, W, 3] (RGB uint8) with RetinaFace at full size."""
    model = on_device(landmarks, memory=RUN_MEMORY)
    # Neither is a buffer, so the host does not move them.
    model.device = device_of(model)
    model.mean_tensor = torch.tensor(BGR_MEAN, device=model.device).view(1, 3, 1, 1)
    rows = model.detect_faces(np.ascontiguousarray(photo[:, :, ::-1]), CONFIDENCE)
    height, width = photo.shape[:2]
    return [
        Face(
            box=row[:4].astype(np.float64),
            score=float(row[4]),
            keypoints=row[5:15].reshape(5, 2).astype(np.float64),
            photo_size=(width, height),
            landmarks_only=True,
        )
        for row in rows
    ]


def matching_keypoints(face: Face, others: list[Face]) -> np.ndarray:
    """Return the keypoints [5, 2] of the one of ``others`` whose box overlaps ``face`` most.

    If none overlaps enough, the face's own keypoints are better than a neighbour's.
    """
    best = max(others, key=lambda other: overlap(face.box, other.box), default=None)
    if best is None or overlap(face.box, best.box) < SAME_FACE:
        log.warning("RetinaFace did not find the chosen face; using the detector's keypoints.")
        return face.keypoints
    return best.keypoints
