"""How alike: the cosine of face vectors, and which face in a picture is which person.

The paper judges an identity by this number (PuLID, arXiv 2404.16022, "face similarity"). It is as
good as the recogniser that gives the vectors, and vectors of two recognisers cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..encoders.packages import require

# Cosines of two photos of one person mostly lie above the first number, of two people below the
# second, in the spaces of these recognisers (ArcFace). What lies between is neither.
SAME, DIFFERENT = 0.4, 0.2
ARCFACE = {"glintr100.onnx": "antelopev2", "w600k_r50.onnx": "buffalo_l"}


@dataclass(frozen=True)
class Likeness:
    """How alike one person is in one picture; both are None where no face is left for them.

    ``face`` counts the picture's faces; ``similarity`` is a cosine, -1 to 1.
    """

    face: int | None = None
    similarity: float | None = None


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return face vectors [N, D] scaled to length 1.

    Raises ValueError for a vector that is zero or not a number: it would be alike to nobody, which
    is another thing than no face.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError(
            "A face vector is zero or not a number: the recogniser failed on this face. Expected "
            "finite values. Check the face pack's files, or use another provider."
        )
    return vectors / lengths


def person(vectors: np.ndarray) -> np.ndarray:
    """Return the direction [D] of one person shown by photos' vectors [M, D], of length 1.

    The mean of the photos' unit vectors, so that no photo counts more for its vector's length
    (which rises with sharpness). Raises ValueError if the photos cancel out.
    """
    return unit(unit(vectors).mean(0, keepdims=True))[0]


def cosines(people: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return how alike each person [P, D] and each face [F, D] are: [P, F] of -1 to 1.

    1 is the same vector, about 0 are unrelated people.
    """
    if not len(people) or not len(faces):
        return np.zeros((len(people), len(faces)))
    return np.clip(unit(people) @ unit(faces).T, -1, 1)


def match(people: np.ndarray, faces: np.ndarray) -> list[Likeness]:
    """Return for each person [P, D] which of a picture's faces [F, D] they are, and how alike.

    No face is two people: of all ways to give each person a face, the one whose cosines have the
    greatest sum (scipy.optimize.linear_sum_assignment). Where faces are fewer than people, the rest
    get none.
    """
    assign = require("scipy.optimize", "Measure Identity").linear_sum_assignment
    alike = cosines(people, faces)
    found = [Likeness()] * len(people)
    for one, face in zip(*assign(alike, maximize=True), strict=True):
        found[one] = Likeness(int(face), float(alike[one, face]))
    return found


def mean_similarity(found: list[Likeness]) -> float | None:
    """Return the mean of the similarities that there are, -1 to 1; None if there is none."""
    values = [one.similarity for one in found if one.similarity is not None]
    return float(np.mean(values)) if values else None


def bounds(recogniser: str) -> tuple[float, float] | None:
    """Return the cosines below which are mostly two people and above which mostly one, if known."""
    return (DIFFERENT, SAME) if recogniser in ARCFACE else None


def range_of(recogniser: str) -> str:
    """Say in what range of cosines this recogniser mostly puts photos of one person.

    Experience with ArcFace, no truth: it says nothing of a single pair.
    """
    if recogniser not in ARCFACE:
        return f"No same-person range is known for {recogniser}."
    return (
        f"The recogniser's same-person range: photos of one person are mostly above {SAME}, of "
        f"different people below {DIFFERENT} ({recogniser})."
    )


def homework(judge: str, makers: list[str]) -> str:
    """Say whether the recogniser ``judge`` also made the identity; empty if another one did.

    ``makers`` are the recognisers that the identity was made with, empty if that is not known.
    """
    if makers and judge not in makers:
        return ""
    if not makers and ARCFACE.get(judge) != "antelopev2":
        return ""
    other = next(pack for pack in ("buffalo_l", "antelopev2") if pack != ARCFACE.get(judge))
    made = "made this identity" if makers else "usually makes identities"
    return (
        f"The judge marks its own homework: its recogniser {judge} {made} too, so its numbers "
        f"are too high. Load a second face pack ({other}) with Load InsightFace to judge by."
    )
