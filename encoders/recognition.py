"""All the faces in pictures and what the recogniser makes of each, for measuring likeness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .detection import Face, face_vector
from .faces import FaceAnalysis, align_face, detect_faces


@dataclass(frozen=True, eq=False)
class Seen:
    """A face in a picture and its raw vector [512]."""

    face: Face
    vector: np.ndarray


def find_all(analysis: FaceAnalysis, photos: list[np.ndarray]) -> list[list[Face]]:
    """Return the faces of each photo [H, W, 3] (RGB uint8), best score first."""
    try:
        return [detect_faces(analysis, photo) for photo in photos]
    finally:
        analysis.sessions.rest()


def recognise_all(analysis: FaceAnalysis, photos: list[np.ndarray]) -> list[list[Seen]]:
    """Return the faces of each photo [H, W, 3] (RGB uint8) with their vectors, best score first."""
    try:
        return [recognise(analysis, photo) for photo in photos]
    finally:
        analysis.sessions.rest()


def recognise(analysis: FaceAnalysis, photo: np.ndarray) -> list[Seen]:
    """Return the faces of one photo; the crop is needed only where RetinaFace alone found one."""
    seen = []
    for face in detect_faces(analysis, photo):
        crop = align_face(analysis, photo, face) if face.landmarks_only else photo
        seen.append(Seen(face, face_vector(analysis.sessions, photo, face, crop)))
    return seen
