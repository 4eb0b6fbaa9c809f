"""What changed between pictures without and with identity: what Measure Disruption does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..encoders.detection import Face
from ..encoders.eva_clip import EvaClip
from ..encoders.faces import FaceAnalysis, read_photos
from ..encoders.recognition import find_all
from ..measure.disruption import compare, outside_faces, outside_mask, semantic
from ..measure.pose import moves
from ..measure.report import Pair, disruption_report
from .feedback import Note
from .measured import Measured, mean_of, rounded

# outputs of Measure Disruption, how each is written on the report
NUMBERS = {
    "difference": "difference {:.3f}",
    "structure": "structure lost {:.3f}",
    "scene": "scene changed {:.3f}",
    "face_overlap": "face overlap {:.2f}",
    "face_size": "face size x {:.2f}",
    "head_turn": "head turned {:.0f}°",
}


def measure_disruption(
    image: Tensor,
    plain_image: Tensor,
    judge: FaceAnalysis | None,
    eva: EvaClip | None,
    mask: Tensor | None,
) -> Measured:
    """Measure what changed outside the faces between pictures without and with identity."""
    changed, plain = read_photos(image), read_photos(plain_image)
    if len(plain) not in (1, len(changed)):
        raise ValueError(
            f"There are {len(changed)} pictures with identity and {len(plain)} without, expected "
            "as many, or one without identity for all."
        )
    faces = find_all(judge, changed) if judge else [[]] * len(changed)
    plain_faces = find_all(judge, plain) if judge else [[]] * len(plain)
    masks = [] if mask is None else mask.float().reshape(-1, *mask.shape[-2:]).cpu().numpy()
    rows, pairs = [], []
    for i, picture in enumerate(changed):
        one = i % len(plain)
        if len(masks):
            outside = outside_mask(masks[i % len(masks)], picture.shape[:2])
        else:
            boxes = [face.box for face in (*plain_faces[one], *faces[i])]
            outside = outside_faces(picture.shape[:2], boxes)
        row = disruption_row(plain[one], picture, outside, plain_faces[one], faces[i], eva)
        rows.append(row)
        pairs.append(Pair(i, plain[one], picture, outside, row["difference"], lines_of(row)))
    means = {name: mean_of([row[name] for row in rows]) for name in NUMBERS}
    notes = disruption_notes(means, rows, judge is not None, mask is not None)
    table = {name: rounded(value) for name, value in means.items()}
    table["pictures"] = [
        {"picture": i} | {k: rounded(v) for k, v in row.items()} for i, row in enumerate(rows)
    ]
    return Measured(tuple(means.values()), table, disruption_report(pairs), notes)


def disruption_row(
    plain: np.ndarray,
    changed: np.ndarray,
    outside: np.ndarray,
    plain_faces: list[Face],
    faces: list[Face],
    eva: EvaClip | None,
) -> dict[str, Any]:
    """Return one pair's numbers; None where one cannot be measured."""
    before, after = plain / np.float32(255), changed / np.float32(255)
    change = compare(before, after, outside)
    moved = moves(plain_faces, faces)
    return {
        "difference": change.difference,
        "structure": change.structure,
        "scene": semantic(eva, before, after, outside) if eva else None,
        "face_overlap": mean_of([move.overlap for move in moved]),
        "face_size": mean_of([move.size for move in moved]),
        "head_turn": mean_of([move.turn for move in moved]),
        "outside": change.outside,
        "faces_without": len(plain_faces),
        "faces_with": len(faces),
    }


def lines_of(row: dict[str, Any]) -> list[str]:
    """Return the numbers of a pair as lines of the report."""
    return [text.format(row[name]) for name, text in NUMBERS.items() if row[name] is not None]


def disruption_notes(
    means: dict[str, float | None], rows: Sequence[dict[str, Any]], judged: bool, masked: bool
) -> list[Note]:
    """Say the numbers, and what was not looked at."""
    said = [text.format(means[name]) for name, text in NUMBERS.items() if means[name] is not None]
    notes = [Note(f"{', '.join(said).capitalize()}.")] if said else []
    if means["difference"] == 0:
        notes.append(Note("The pictures are equal: the identity changed nothing outside the face."))
    empty = [i for i, row in enumerate(rows) if row["difference"] is None]
    if empty:
        where = ", ".join(map(str, empty))
        notes.append(Note(f"Nothing is outside the faces in picture {where}.", True))
    if not judged and not masked:
        text = "The whole picture counts, with the faces: link face_analysis or face_mask."
        notes.append(Note(text, True))
    elif not masked:
        counts = [row["faces_without"] + row["faces_with"] for row in rows]
        faceless = [i for i, count in enumerate(counts) if not count]
        if faceless:
            where = ", ".join(map(str, faceless))
            notes.append(Note(f"No face in picture {where}: the whole of it counts.", True))
    return notes
