"""How undisturbed: what identity changed in a picture although it is not the person.

Two pictures of the same prompt and seed are compared, one without and one with identity. The paper
asks that everything but the face stays (arXiv 2404.16022, alignment losses).
Pictures are [H, W, 3] in 0..1, boxes [4] are x1, y1, x2, y2 and points [5, 2] x, y in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..encoders.eva_clip import EvaClip, encode_pixels
from ..encoders.packages import require
from ..encoders.pixels import CLIP_MEAN, normalise

PURPOSE = "Measure Disruption"
# A detector's box ends at brows and chin; the head with its hair is about twice as large.
GROW = 0.5
# The window of structural similarity: Gaussian with sigma 1.5, cut off after 5 pixels (Wang 2004).
SIGMA, REACH = 1.5, 5


@dataclass(frozen=True)
class Change:
    """What changed outside the faces. None stands for what could not be measured.

    ``difference`` and ``structure`` as the functions of that name return them; ``outside`` is the
    share of the picture that was looked at, 0 to 1.
    """

    difference: float | None
    structure: float | None
    outside: float


def compare(plain: np.ndarray, changed: np.ndarray, outside: np.ndarray) -> Change:
    """Compare the picture without identity with the one with it, where ``outside`` [H, W] is True.

    Raises ValueError if their sizes differ or a value is not a number.
    """
    if plain.shape != changed.shape or outside.shape != plain.shape[:2]:
        raise ValueError(
            f"The pictures to compare have different sizes: {shown(changed)} with identity, "
            f"{shown(plain)} without, {shown(outside)} the mask. Make both with the same size, "
            "prompt and seed."
        )
    if not (np.isfinite(plain).all() and np.isfinite(changed).all()):
        raise ValueError(
            "A picture to compare holds NaN or infinite values; a node before this one produced "
            "them. Check it with Preview Image."
        )
    share = float(outside.mean()) if outside.size else 0.0
    return Change(difference(plain, changed, outside), structure(plain, changed, outside), share)


def shown(picture: np.ndarray) -> str:
    """Return a picture's size as people write it."""
    return f"{picture.shape[1]}x{picture.shape[0]}"


def difference(plain: np.ndarray, changed: np.ndarray, outside: np.ndarray) -> float | None:
    """Return the mean absolute difference of the pixels outside, 0 (equal) to 1; None without any.

    It rises with the area of a change and with how much it changes; a shifted pattern counts fully.
    """
    if not outside.any():
        return None
    return float(np.abs(plain[outside] - changed[outside]).mean())


def structure(plain: np.ndarray, changed: np.ndarray, outside: np.ndarray) -> float | None:
    """Return how much structure was lost outside: 1 - SSIM, 0 (equal) to 1, at most 2.

    Less sensitive to brightness than to edges that come and go (Wang et al. 2004, by scikit-image,
    with their window). Only windows that lie outside as a whole count, so that what happens in a
    face cannot be felt through them; None if there is none, or the picture is smaller than one.
    """
    side = 2 * REACH + 1
    if min(plain.shape[:2]) < side:
        return None
    lowest = require("scipy.ndimage", PURPOSE).minimum_filter
    whole = lowest(outside, side, mode="constant", cval=1)  # beyond the edge nothing is a face
    if not whole.any():
        return None
    _, similar = require("skimage.metrics", PURPOSE).structural_similarity(
        plain.astype(np.float32),
        changed.astype(np.float32),
        gaussian_weights=True,
        sigma=SIGMA,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=-1,
        full=True,
    )
    return max(0.0, float(1 - similar[whole].mean()))  # rounding may pass 1


def outside_faces(size: tuple[int, int], boxes: list[np.ndarray], grow: float = GROW) -> np.ndarray:
    """Return where a picture of ``size`` (height, width) is outside all boxes: bool [H, W].

    Each box is first made larger by ``grow`` of its width and height on every side, since hair and
    neck are the person's too. Give the faces of both pictures: a face that moved is no disruption
    at its old place.
    """
    outside = np.ones(size, bool)
    for box in boxes:
        reach = grow * (box[2:] - box[:2])
        low = np.floor(box[:2] - reach).clip(0).astype(int)
        high = np.ceil(box[2:] + reach).clip(0).astype(int)
        outside[low[1] : high[1], low[0] : high[0]] = False
    return outside


def outside_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return where a picture of ``size`` (height, width) is outside a mask [h, w] of any size.

    1 in the mask are the faces, 0 is what may not change. Raises ValueError for values that are not
    numbers.
    """
    if not mask.size or not np.isfinite(mask).all():
        raise ValueError(
            f"face_mask has shape {list(mask.shape)} or values that are not numbers, expected "
            "[height, width] of 0 to 1. Link a MASK that is white where the faces are."
        )
    places = [(np.arange(n) + 0.5) * m / n for n, m in zip(size, mask.shape, strict=True)]
    rows, columns = (place.astype(int) for place in places)
    return mask[rows][:, columns] < 0.5


def semantic(
    eva: EvaClip, plain: np.ndarray, changed: np.ndarray, outside: np.ndarray
) -> float | None:
    """Return how much the scene changed, as EVA-CLIP sees it with the faces blanked: 0 to 2.

    1 - cosine of the two pictures' vectors (``eva`` is PuLID's own tower): 0 is the same scene. The
    pictures are squeezed into EVA-CLIP's square; the faces of both are the mean colour in both.
    None if there is nothing outside.
    """
    if not outside.any():
        return None
    pixels = []
    for picture in (plain, changed):
        rest = np.where(outside[..., None], picture, np.asarray(CLIP_MEAN)).astype(np.float32)
        pixels.append(normalise(torch.from_numpy(rest)[None], eva.image_size))
    vectors, _ = encode_pixels(eva, torch.cat(pixels))
    return max(0.0, 1 - float(vectors[0] @ vectors[1]))  # rounding may pass 1
