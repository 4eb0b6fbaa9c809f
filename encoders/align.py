"""The aligned crop: five points of a face laid on the FFHQ template at 512 pixels."""

from __future__ import annotations

import numpy as np

from .packages import require

CROP = 512
BORDER = (135, 133, 132)
# Left eye, right eye, nose, left and right corner of the mouth, as they appear in the image.
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


def crop_matrix(keypoints: np.ndarray) -> np.ndarray:
    """Return the similarity transform [2, 3] from ``keypoints`` [5, 2] (pixels) to the template.

    Raises ValueError if there is none, for example if the points coincide.
    """
    cv2 = require("cv2", "Encode PuLID Identity")
    points = np.asarray(keypoints, dtype=np.float64)
    matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all():
        raise ValueError(
            f"The face's five points {points.round(1).tolist()} cannot be aligned: expected eyes, "
            f"nose and mouth apart from each other. Choose another face or photo."
        )
    return matrix


def warp(photo: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """photo [H, W, 3] RGB uint8, matrix [2, 3] -> crop [512, 512, 3]; what lies outside is grey."""
    cv2 = require("cv2", "Encode PuLID Identity")
    # The authors' border colour is in BGR order.
    return cv2.warpAffine(
        photo, matrix, (CROP, CROP), borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER[::-1]
    )


def crop_centre(matrix: np.ndarray) -> np.ndarray:
    """Return the point [x, y] of the photo that lies in the middle of the crop."""
    turn, shift = matrix[:, :2], matrix[:, 2]
    return np.linalg.solve(turn, np.full(2, CROP / 2) - shift)
