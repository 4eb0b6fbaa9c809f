"""Finding and ordering the faces in a photo, and computing the recogniser's vector of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .packages import require
from .sessions import DETECTOR_SIDE, FaceSessions

# How much of the detector's 640 pixels the photo fills. All of it comes first, as in the authors'
# code; if that finds no face, it may be too large, and the photo is shrunk and gets a margin.
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
RECOGNISER_SIDE = 112


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo: ``box`` x1, y1, x2, y2 and ``keypoints`` [5, 2], in the photo's pixels.

    ``photo_size`` is (width, height); ``landmarks_only`` marks a face that only RetinaFace found,
    ``by_hand`` one whose points the user gave.
    """

    box: np.ndarray
    score: float
    keypoints: np.ndarray
    photo_size: tuple[int, int]
    landmarks_only: bool = False
    by_hand: bool = False

    @property
    def centre(self) -> np.ndarray:
        """Centre of the box, [x, y] in pixels."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def area(self) -> float:
        return float(np.prod(self.box[2:] - self.box[:2]))

    @property
    def distance_to_middle(self) -> float:
        """Distance between the centres of the box and the photo, in pixels."""
        return float(np.linalg.norm(self.centre - np.array(self.photo_size) / 2))


# Each order's sorting key, smallest first.
ORDER_KEYS: dict[str, Callable[[Face], float]] = {
    "largest": lambda face: -face.area,
    "smallest": lambda face: face.area,
    "leftmost": lambda face: float(face.centre[0]),
    "rightmost": lambda face: -float(face.centre[0]),
    "topmost": lambda face: float(face.centre[1]),
    "bottommost": lambda face: -float(face.centre[1]),
    "most central": lambda face: face.distance_to_middle,
    "best score": lambda face: -face.score,
}
FACE_ORDERS = tuple(ORDER_KEYS)


def order_faces(faces: list[Face], face: str) -> list[Face]:
    """Return ``faces`` in the order called ``face``; ties go from the left.

    Raises ValueError if ``face`` is not one of FACE_ORDERS.
    """
    if face not in ORDER_KEYS:
        raise ValueError(f"Unknown face order {face!r}; choose one of {', '.join(FACE_ORDERS)}.")
    key = ORDER_KEYS[face]
    return sorted(faces, key=lambda one: (key(one), *one.box.tolist()))


def find_faces(sessions: FaceSessions, photo: np.ndarray) -> list[Face]:
    """Find the faces in ``photo`` [H, W, 3] (RGB uint8), best score first; empty if there are none.

    If there is no face at full size, smaller sizes are tried. The one with the best score is used,
    because the keypoints of a face that is barely detected are inaccurate.
    """
    detector = sessions.get("detection")
    first, *smaller = SHARES
    faces = faces_at(detector, photo, first)
    if faces:
        return faces
    tries = [faces_at(detector, photo, share) for share in smaller]
    return max(tries, key=lambda found: found[0].score if found else 0.0, default=[])


def face_by_hand(points: str, photo: np.ndarray) -> Face:
    """Return the face at five points that the user gave, for faces that no detector finds.

    ``points`` are the left eye, right eye, nose, left and right corner of the mouth, as they appear
    in the image: ten numbers, x and y of each, in percent of ``photo`` [H, W, 3]. Raises ValueError
    for anything else.
    """
    height, width = photo.shape[:2]
    try:
        numbers = [float(part) for part in points.replace(";", " ").replace(",", " ").split()]
        shares = np.array(numbers).reshape(5, 2) / 100
    except ValueError:
        shares = np.full((5, 2), np.nan)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(
            f"face_points is '{points}', expected ten numbers from 0 to 100: x and y in percent of "
            "the photo of left eye, right eye, nose, left and right corner of the mouth."
        )
    keypoints = shares * (width, height)
    low, high = keypoints.min(0), keypoints.max(0)
    margin = 0.6 * (high - low).max()  # a detector's box reaches about so far around the points
    box = np.clip([*(low - margin), *(high + margin)], 0, [width, height, width, height])
    return Face(box, 1.0, keypoints, (width, height), by_hand=True)


def faces_at(detector: Any, photo: np.ndarray, share: float) -> list[Face]:
    """Run ``detector`` with ``photo`` [H, W, 3] (RGB uint8) filling ``share`` of its canvas."""
    height, width = photo.shape[:2]
    canvas, scale, corner = place(photo, share)
    # The canvas has the detector's own size: insightface 0.7 and later treat it alike, as do
    # models with a fixed input and those without.
    boxes, points = detector.detect(canvas, input_size=(DETECTOR_SIDE, DETECTOR_SIDE))
    faces = [
        Face(
            box=((row[:4].reshape(2, 2) - corner) / scale).reshape(4).astype(np.float64),
            score=float(row[4]),
            keypoints=((five - corner) / scale).astype(np.float64),
            photo_size=(width, height),
        )
        for row, five in zip(boxes, points, strict=True)
    ]
    return sorted(faces, key=lambda face: -face.score)


def place(photo: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put ``photo`` on the detector's black BGR canvas, its long edge filling ``share`` of it.

    Returns canvas [640, 640, 3], scale [x, y] and corner [x, y]: canvas = photo * scale + corner.
    """
    cv2 = require("cv2", "Encode PuLID Identity")
    height, width = photo.shape[:2]
    fit = DETECTOR_SIDE * share / max(height, width)
    size = (max(1, int(width * fit)), max(1, int(height * fit)))
    # insightface puts the photo in the corner; with a margin to spare it goes to the middle.
    corner = (0, 0) if share == 1 else tuple((DETECTOR_SIDE - edge) // 2 for edge in size)
    canvas = np.zeros((DETECTOR_SIDE, DETECTOR_SIDE, 3), dtype=np.uint8)
    window = canvas[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]
    window[:] = cv2.resize(photo[:, :, ::-1], size)
    return canvas, np.array(size) / (width, height), np.array(corner)


def face_vector(
    sessions: FaceSessions, photo: np.ndarray, face: Face, crop: np.ndarray
) -> np.ndarray:
    """Return the recogniser's raw vector [512] of ``face``.

    It sees ``photo`` under the detector's keypoints; for a face that only RetinaFace found, the
    aligned ``crop`` (RGB uint8) at 112 pixels, as the authors do.
    """
    recogniser = sessions.get("recognition")
    if face.landmarks_only:
        cv2 = require("cv2", "Encode PuLID Identity")
        small = cv2.resize(crop[:, :, ::-1], (RECOGNISER_SIDE, RECOGNISER_SIDE))
        return np.asarray(recogniser.get_feat(small)).flatten()
    common = require("insightface.app.common", "Encode PuLID Identity")
    seen = common.Face(bbox=face.box, kps=face.keypoints.astype(np.float32), det_score=face.score)
    vector = recogniser.get(np.ascontiguousarray(photo[:, :, ::-1]), seen)
    return np.asarray(vector).flatten()


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union, 0..1, of two boxes [4] (x1, y1, x2, y2)."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = math.prod(np.clip(high - low, 0, None).tolist())
    areas = [math.prod((box[2:] - box[:2]).tolist()) for box in (first, second)]
    return shared / (sum(areas) - shared) if sum(areas) > shared else 0.0
