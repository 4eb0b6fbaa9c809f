"""Where a face is, how large, and which way the head is turned, from its box and five points.

Points [5, 2] are left eye, right eye, nose, left and right corner of the mouth as they appear in
the image, in pixels, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..encoders.detection import Face, overlap
from ..encoders.packages import require

# Five points of a head that looks into the camera, in mm from between the eyes; z points at the
# camera. x and y are those of the FFHQ template that PuLID aligns by, at 63 mm from eye to eye; the
# depths are a mean head's. A single face may differ: angles are good to about 10 degrees, their
# change from picture to picture of one person to less.
HEAD = np.array(
    [
        [-31.5, 0.0, 0.0],
        [31.5, 0.0, 0.0],
        [0.0, 37.0, 28.0],
        [-28.0, 65.5, 4.0],
        [28.0, 65.5, 4.0],
    ]
)


@dataclass(frozen=True)
class Pose:
    """A head's direction in degrees, all 0 if it looks into the camera upright.

    ``yaw`` is positive to the right of the image, ``pitch`` downwards, ``roll`` clockwise;
    ``rotation`` [3, 3] is the same as a matrix.
    """

    yaw: float
    pitch: float
    roll: float
    rotation: np.ndarray


@dataclass(frozen=True)
class Move:
    """How one face differs between the picture without (0) and with identity (1).

    ``overlap``: intersection over union of the boxes, 0 to 1 (1 = same place and size).
    ``size``: ratio of the boxes' side lengths, above 1 = larger with identity.
    ``turn``: angle between the heads' directions in degrees, 0 to 180; None without five points.
    """

    faces: tuple[int, int]
    overlap: float
    size: float
    turn: float | None


def head_pose(points: np.ndarray) -> Pose | None:
    """Return the direction of the head with these points [5, 2], None if they are no face.

    The mean head is fitted by least squares under a weak perspective camera, and the fit made a
    rotation (POS of DeMenthon and Davis 1995, without the iteration, which needs the lens).
    """
    points = np.asarray(points, dtype=np.float64)
    seen, model = points - points.mean(0), HEAD - HEAD.mean(0)
    if not np.isfinite(seen).all() or np.ptp(seen, axis=0).min() < 1e-6:
        return None
    rows = np.linalg.lstsq(model, seen, rcond=None)[0].T  # [2, 3], scale times rotation
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    x, y = left @ right
    rotation = np.stack([x, y, np.cross(x, y)])
    yaw = math.degrees(math.atan2(rotation[0, 2], rotation[2, 2]))
    pitch = math.degrees(math.asin(float(np.clip(rotation[1, 2], -1, 1))))
    roll = math.degrees(math.atan2(rotation[1, 0], rotation[1, 1]))
    return Pose(yaw, pitch, roll, rotation)


def turn_between(first: Pose, second: Pose) -> float:
    """Return the angle in degrees, 0 to 180, by which a head turned from one pose to another."""
    cosine = (np.trace(first.rotation @ second.rotation.T) - 1) / 2
    return math.degrees(math.acos(float(np.clip(cosine, -1, 1))))


def moves(plain: list[Face], changed: list[Face]) -> list[Move]:
    """Return how the faces moved from one picture to the other.

    Which face is which is decided by the greatest total overlap; a single face in both pictures is
    the same one wherever it went. Faces that are in one picture only are left out.
    """
    assign = require("scipy.optimize", "Measure Disruption").linear_sum_assignment
    shared = np.array([[overlap(a.box, b.box) for b in changed] for a in plain])
    if not shared.size:
        return []
    found = []
    for i, j in zip(*assign(shared, maximize=True), strict=True):
        before, after = plain[i], changed[j]
        if shared[i, j] == 0 and len(plain) + len(changed) > 2:
            continue  # of several faces, one that went and one that came
        poses = [head_pose(face.keypoints) for face in (before, after)]
        found.append(
            Move(
                faces=(int(i), int(j)),
                overlap=float(shared[i, j]),
                size=math.sqrt(after.area / before.area),
                turn=None if None in poses else turn_between(*poses),
            )
        )
    return found
