"""The prior image: one more photo of the person, before the others."""

from __future__ import annotations

from torch import Tensor

from ..encoders.eva_clip import EvaClip
from ..encoders.faces import (
    FaceAnalysis,
    PhotoFeatures,
    detect_faces,
    face_features,
    read_photos,
)


def prior_features(
    analysis: FaceAnalysis,
    eva: EvaClip,
    prior: Tensor,
    face: str,
    face_index: int,
    on_no_face: str,
    grayscale: bool,
) -> PhotoFeatures | None:
    """Return the features of ``prior`` [B, H, W, C], seen with the settings of the photos.

    As in sipie800's "Enhanced", a prior without a face is left out (None) unless that is an error.
    Raises ValueError where a photo is unfit or has no such face.
    """
    photos = read_photos(prior)
    if on_no_face != "error" and not any(detect_faces(analysis, photo) for photo in photos):
        return None
    return face_features(analysis, eva, prior, face, face_index, on_no_face, grayscale)
