"""The rows of the table for SDXL: cubiq's pack, Easy-Use's two nodes that call it, and MultiGPU's.

An id that differs from one of these only in letter case (``PuLIDModelLoader``) is of a pack for
FLUX.2, and none of ours.
"""

from __future__ import annotations

from dataclasses import replace

from .rows import (
    EVA_CLIP,
    FACE_LOADER,
    SDXL_APPLY,
    SDXL_MODEL,
    STRENGTH,
    Lost,
    Old,
    on_device,
)

SAME = {name: name for name in (*STRENGTH, "model", "image", "attn_mask")}
SAME |= {"pulid": "pulid_model", "eva_clip": "eva_clip", "face_analysis": "face_analysis"}
# It averaged several photos, gave negative rows the unconditional identity, went on without a photo
# in which it found no face, and its weight was 1 at first.
AS_BEFORE = {"fusion": "mean", "unconditional": "zero identity", "on_no_face": "skip"}
AS_BEFORE |= {"weight": 1.0}
STRONGER = (
    "the identity is stronger here: since September 2024 that pack left out the ten layers in the "
    "middle of the model; lower weight where it is too much"
)
NOISE = Lost("not kept, it was random and never the same twice", (0,))

LOADERS = (
    Old("PulidModelLoader", SDXL_MODEL, ("pulid_file",), {"pulid_file": "model_name"}),
    Old("PulidEvaClipLoader", EVA_CLIP),
    replace(FACE_LOADER, id="PulidInsightFaceLoader"),
)
SIMPLE = Old(
    "ApplyPulid",
    SDXL_APPLY,
    ("method", *STRENGTH),
    SAME | {"method": "method"},
    AS_BEFORE,
    note=STRONGER,
)
ADVANCED = Old(
    "ApplyPulidAdvanced",
    SDXL_APPLY,
    ("weight", "projection", "fidelity", "noise", "start_at", "end_at"),
    SAME | {"projection": "projection", "fidelity": "num_zero"},
    AS_BEFORE | {"method": "custom", "num_zero": 8},
    lost={"noise": NOISE},
    note=STRONGER,
)
# What Easy-Use's nodes, which load the models themselves, say about each.
EASY_PARTS = (
    Old("", SDXL_MODEL, inputs={"pulid_file": "model_name"}),
    Old("", EVA_CLIP),
    replace(FACE_LOADER, inputs={"insightface": "provider"}),
)


def easy(row: Old, old_id: str) -> Old:
    """Return the row of Easy-Use's form of an Apply node, which runs where cubiq's pack is."""
    widgets = ("pulid_file", "insightface", *row.widgets)
    return replace(row, id=old_id, widgets=widgets, parts=EASY_PARTS, needs=row.id)


SDXL = (
    *LOADERS,
    SIMPLE,
    ADVANCED,
    easy(SIMPLE, "easy pulIDApply"),
    easy(ADVANCED, "easy pulIDApplyADV"),
    *(on_device(row, f"{row.id}MultiGPU", beside=True) for row in LOADERS),
)
