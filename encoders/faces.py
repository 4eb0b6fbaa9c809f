"""From a batch of photos of one person to what PuLID's ID encoder takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher

from .align import CROP, crop_matrix, warp
from .detection import FACE_ORDERS, Face, face_by_hand, face_vector, find_faces, order_faces
from .eva_clip import EvaClip, encode_pixels
from .landmarks import landmark_faces, load_landmarks, matching_keypoints
from .parsing import load_parser, parse_faces
from .photo import prepare_photo
from .pixels import normalise, whiten
from .providers import PROVIDER_CHOICES
from .sessions import FaceSessions, open_sessions

__all__ = [
    "FACE_ORDERS",
    "Face",
    "FaceAnalysis",
    "NoFace",
    "ON_NO_FACE",
    "PROVIDER_CHOICES",
    "PhotoFeatures",
    "PhotoRecord",
    "agreement",
    "detect_faces",
    "face_features",
    "load_face_analysis",
    "order_faces",
    "prepare_photo",
]

ON_NO_FACE = ("error", "skip", "plain model")


class NoFace(ValueError):
    """No face was found in photo ``index``."""

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class FaceAnalysis:
    """The loaded face models: insightface's pack at ``pack`` on ``provider``, parser, RetinaFace.

    ``provider`` is what they really run on; ``landmarks`` is None where the pack's keypoints are
    used; ``notes`` are sentences for the user. ``recogniser`` is the file whose vectors it gives.
    """

    sessions: FaceSessions
    provider: str
    parser: ModelPatcher
    landmarks: ModelPatcher | None
    pack: Path
    notes: tuple[str, ...] = ()
    recogniser: str = ""


@dataclass(frozen=True)
class PhotoRecord:
    """What was found in photo ``index``: its faces in the order asked for, and the chosen one."""

    index: int
    faces: tuple[Face, ...]
    chosen: int | None

    @property
    def skipped(self) -> bool:
        return self.chosen is None


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """The features of M photos (those not skipped), float32 on the CPU.

    id_cond [M, 512+E]; hidden: five [M, 1+P, W]; crops [M, 512, 512, 3], whitened, as EVA-CLIP saw
    them; aligned [M, 512, 512, 3]; photos: a record of each photo; arcface [M, 512], raw. With no
    photo left (M = 0), id_cond and arcface are [0] and hidden is empty.
    """

    id_cond: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    crops: torch.Tensor
    aligned: torch.Tensor
    photos: tuple[PhotoRecord, ...]
    arcface: torch.Tensor


def load_face_analysis(
    pack: Path, provider: str, parsing: Path, landmarks: Path | None = None
) -> FaceAnalysis:
    """Load insightface's model pack, the parsing model, and RetinaFace if a file is given.

    ``provider`` is one of PROVIDER_CHOICES, or version 0.1's ROCM. Raises FileNotFoundError,
    ValueError or RuntimeError with what was looked for and found; never downloads.
    """
    sessions, notes = open_sessions(Path(pack), provider)
    return FaceAnalysis(
        sessions=sessions,
        provider=sessions.at_work,
        parser=load_parser(parsing),
        landmarks=load_landmarks(landmarks) if landmarks else None,
        pack=sessions.pack,
        notes=notes,
        recogniser=sessions.recogniser,
    )


def detect_faces(analysis: FaceAnalysis, photo: np.ndarray) -> list[Face]:
    """Find the faces in ``photo`` [H, W, 3] (RGB uint8), best score first.

    If the pack's detector finds none, RetinaFace is used if it is loaded (the authors' fallback).
    """
    faces = find_faces(analysis.sessions, photo)
    if not faces and analysis.landmarks:
        faces = landmark_faces(analysis.landmarks, photo)
    return faces


def choose_face(
    faces: list[Face], index: int, face: str, face_index: int, on_no_face: str
) -> PhotoRecord:
    """Put the faces of photo ``index`` in order and choose one; NoFace or ValueError names it."""
    if not faces and on_no_face != "error":
        return PhotoRecord(index, (), None)
    if not faces:
        raise NoFace(
            f"No face was found in image {index} of the batch (counted from 0). Use a sharp photo "
            "with the face upright and mostly visible, click its eyes, nose and mouth in the photo "
            "on the node, or set on_no_face to skip or plain model.",
            index,
        )
    if not 0 <= face_index < len(faces):
        raise ValueError(
            f"face_index {face_index} does not exist in image {index} of the batch: it has "
            f"{len(faces)} face(s), so face_index goes from 0 to {len(faces) - 1}."
        )
    return PhotoRecord(index, tuple(order_faces(faces, face)), face_index)


def align_face(analysis: FaceAnalysis, photo: np.ndarray, face: Face) -> np.ndarray:
    """Return the crop [512, 512, 3] of ``face`` in ``photo`` [H, W, 3], both RGB uint8.

    RetinaFace's keypoints align it where that is loaded.
    """
    keypoints = face.keypoints
    if analysis.landmarks and not (face.landmarks_only or face.by_hand):
        keypoints = matching_keypoints(face, landmark_faces(analysis.landmarks, photo))
    return warp(photo, crop_matrix(keypoints))


def look_at(
    analysis: FaceAnalysis, photo: np.ndarray, face: Face, grayscale: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one face's aligned crop and its whitened form [512, 512, 3], and its vector [512]."""
    crop = align_face(analysis, photo, face)
    vector = face_vector(analysis.sessions, photo, face, crop)
    aligned = torch.from_numpy(crop).float() / 255
    labels = parse_faces(analysis.parser, aligned[None])
    whitened = whiten(aligned[None], labels, grayscale)[0]
    return aligned, whitened, torch.from_numpy(vector).float()


def read_photos(images: torch.Tensor) -> list[np.ndarray]:
    """Prepare every photo of the batch [B, H, W, C]; ValueError names an unusable one."""
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(
            f"Expected a batch of images [B, height, width, channels], found {list(images.shape)}."
        )
    photos = []
    for index, image in enumerate(images):
        try:
            photos.append(prepare_photo(image))
        except ValueError as error:
            raise ValueError(f"Image {index} of the batch cannot be used: {error}.") from error
    return photos


def face_features(
    analysis: FaceAnalysis,
    eva: EvaClip,
    images: torch.Tensor,
    face: str = "largest",
    face_index: int = 0,
    on_no_face: str = "error",
    grayscale: bool = True,
    progress: Callable[[int, int], None] | None = None,
    face_points: str = "",
) -> PhotoFeatures:
    """Turn photos [B, H, W, C] of one person into features; one face drives both encoders.

    ``face`` is one of FACE_ORDERS and ``face_index`` counts in that order; ``progress(done, B)``
    is called after each photo. ``face_points`` takes the place of detection in every photo (see
    face_by_hand). A photo without a face is an error, is left out ("skip"), or makes
    the whole result empty ("plain model"). Raises NoFace, or ValueError naming the photo that has
    no face of that index, or unusable pixels.
    """
    if on_no_face not in ON_NO_FACE:
        raise ValueError(f"on_no_face is {on_no_face!r}; choose one of {', '.join(ON_NO_FACE)}.")
    order_faces([], face)
    records, seen = [], []
    photos = read_photos(images)
    try:
        for index, photo in enumerate(photos):
            by_hand = face_points.strip()
            found = [face_by_hand(by_hand, photo)] if by_hand else detect_faces(analysis, photo)
            record = choose_face(found, index, face, face_index, on_no_face)
            records.append(record)
            if record.chosen is not None:
                seen.append(look_at(analysis, photo, record.faces[record.chosen], grayscale))
            if progress:
                progress(index + 1, len(photos))
    finally:
        analysis.sessions.rest()
    if not seen or (on_no_face == "plain model" and len(seen) < len(photos)):
        nothing, crop = torch.zeros(0), torch.zeros(0, CROP, CROP, 3)
        return PhotoFeatures(nothing, (), crop, crop, tuple(records), nothing)
    aligned, crops, arcface = (torch.stack(values) for values in zip(*seen, strict=True))
    pooled, hidden = encode_pixels(eva, normalise(crops, eva.image_size))
    return PhotoFeatures(
        id_cond=torch.cat((arcface, pooled), dim=-1),
        hidden=hidden,
        crops=crops,
        aligned=aligned,
        photos=tuple(records),
        arcface=arcface,
    )


def agreement(arcface: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each pair of vectors: [M, 512] -> [M, M]."""
    unit = F.normalize(arcface.float(), dim=-1)
    return unit @ unit.T
