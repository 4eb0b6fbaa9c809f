"""How alike the faces in pictures are to people: what Measure Identity does."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..encoders.faces import FaceAnalysis, order_faces, read_photos
from ..encoders.recognition import Seen, recognise_all
from ..identity.identity import FaceVectors, Identity
from ..measure.report import Cell, likeness_report
from ..measure.similarity import (
    Likeness,
    bounds,
    homework,
    match,
    mean_similarity,
    person,
    range_of,
    unit,
)
from .feedback import Note
from .measured import Measured, rounded

# how the faces in the reference photos are people
PEOPLE = ("one person", "one per photo", "every face")


def measure_likeness(
    judge: FaceAnalysis,
    image: Tensor,
    people: str,
    reference: Tensor | None,
    identity: Identity | None,
) -> Measured:
    """Measure how alike the people in the reference are in each picture of ``image``."""
    known = None if identity is None else identity.faces
    persons = reference_people(judge, people, reference, known)
    pictures = read_photos(image)
    seen = recognise_all(judge, pictures)
    found = [match(persons, np.array([face.vector for face in faces])) for faces in seen]
    values = [one.similarity for likenesses in found for one in likenesses]
    there = [value for value in values if value is not None]
    similarity = float(np.mean(there)) if there else None
    numbers = (similarity, min(there, default=None), len(values) - len(there))
    makers = [known.recogniser] if known else []
    table = {
        "judge": {"pack": judge.pack.name, "recogniser": judge.recogniser},
        "made_by_the_judge": judge.recogniser in makers if makers else None,
        "same_person_range": bounds(judge.recogniser) and [*bounds(judge.recogniser)],
        **dict(zip(("similarity", "lowest", "missing"), map(rounded, numbers), strict=True)),
        "pictures": [
            likeness_row(i, faces, likenesses, pictures[i].shape[:2])
            for i, (faces, likenesses) in enumerate(zip(seen, found, strict=True))
        ],
    }
    cells = [
        Cell(i, pictures[i], found[i], [face.face.box for face in faces])
        for i, faces in enumerate(seen)
    ]
    notes = likeness_notes(numbers, found)
    notes += [Note(range_of(judge.recogniser))]
    notes += [Note(text) for text in [homework(judge.recogniser, makers)] if text]
    report = likeness_report(cells, bounds(judge.recogniser))
    return Measured(numbers, table, report, notes)


def reference_people(
    judge: FaceAnalysis, people: str, reference: Tensor | None, known: FaceVectors | None
) -> np.ndarray:
    """Return the direction of each person to look for, [P, 512].

    Photos count before what an identity knows. Raises ValueError if there is nothing to compare
    with, or nothing that the judge can compare.
    """
    if reference is not None:
        vectors = reference_vectors(recognise_all(judge, read_photos(reference)), people)
    elif known is None:
        raise ValueError(
            "There is nothing to compare with: neither reference photos nor an identity that "
            "knows its photos' face vectors. Link photos to reference, or encode the identity "
            "again: files of version 0.1 have no face vectors."
        )
    elif known.recogniser != judge.recogniser:
        raise ValueError(
            f"The identity's face vectors are from {known.recogniser}, but the judge is "
            f"{judge.recogniser}: vectors of two recognisers cannot be compared. Link the photos "
            "to reference as well, or load the identity's own face pack."
        )
    else:
        vectors = known.vectors.numpy()
    return person(vectors)[None] if people == PEOPLE[0] else unit(vectors)


def reference_vectors(seen: list[list[Seen]], people: str) -> np.ndarray:
    """Return the vectors that count: every face from left to right, or each photo's largest."""
    vectors = []
    for index, faces in enumerate(seen):
        if not faces:
            raise ValueError(
                f"No face was found in image {index} of reference (counted from 0). Use a sharp "
                "photo with the face upright and mostly visible, or leave that photo out."
            )
        of_face = {id(one.face): one.vector for one in faces}
        every = people == PEOPLE[2]
        order = order_faces([one.face for one in faces], "leftmost" if every else "largest")
        vectors += [of_face[id(face)] for face in (order if every else order[:1])]
    return np.array(vectors)


def likeness_row(
    index: int, faces: list[Seen], found: list[Likeness], size: tuple[int, int]
) -> dict[str, Any]:
    """Return one picture's part of the table; boxes in fractions of the picture's size."""
    height, width = size
    edges = np.array([width, height, width, height])
    boxes = [[rounded(float(v)) for v in one.face.box / edges] for one in faces]
    people = [
        {
            "similarity": rounded(one.similarity),
            "box": None if one.face is None else boxes[one.face],
        }
        for one in found
    ]
    similarity = rounded(mean_similarity(found))
    return {"picture": index, "similarity": similarity, "faces": len(faces), "people": people}


def likeness_notes(
    numbers: tuple[float | int | None, ...], found: list[list[Likeness]]
) -> list[Note]:
    """Say the numbers, and which people are missing where."""
    similarity, lowest, missing = numbers
    notes = []
    if similarity is not None:
        several = sum(map(len, found)) > 1
        more = f", the lowest {lowest:.2f}" if several else ""
        notes.append(Note(f"Similarity {similarity:.2f}{more}."))
    if missing:
        where = [
            f"picture {i}" + (f" (person {p})" if len(likenesses) > 1 else "")
            for i, likenesses in enumerate(found)
            for p, one in enumerate(likenesses)
            if one.similarity is None
        ]
        more = f" and {len(where) - 8} more" if len(where) > 8 else ""
        notes.append(Note(f"No face for: {', '.join(where[:8])}{more}.", True))
    return notes
