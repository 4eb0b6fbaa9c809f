"""The nodes of older PuLID-FLUX packs and what takes their place, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Old:
    """A node of an older pack.

    new_id: what takes its place, "" if nothing does; inputs: old name -> new name, widgets first
    and in the order in which a file stores their values (``widgets`` of them); values: what the
    new node is told besides; words: new name -> old word -> new word; outputs: the new output for
    each old one; passes: the input that comes out again at output 0.
    """

    id: str
    new_id: str = ""
    widgets: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    outputs: tuple[int, ...] = (0,)
    passes: str = ""

    def widget_names(self) -> list[str]:
        """Return the old names of the widgets, in the order of a file's values."""
        return list(self.inputs)[: self.widgets]

    def renamed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return old inputs under their new names, in the new words."""
        found = {new: given[name] for name, new in self.inputs.items() if name in given}
        for new, words in self.words.items():
            if isinstance(value := found.get(new), str):
                found[new] = words.get(value, value)
        return found


STRENGTH = {"weight": "weight", "start_at": "start_at", "end_at": "end_at"}
FUSION = {"fusion": "fusion", "fusion_weight_max": "fusion_weight_max"}
FUSION |= {"fusion_weight_min": "fusion_weight_min", "train_step": "train_step"}
TARGET = {"model": "model", "image": "image", "attn_mask": "attn_mask"}
PARTS = {"pulid_flux": "pulid_model", "eva_clip": "eva_clip", "face_analysis": "face_analysis"}
# They averaged several photos, and gave both sides of true CFG the same identity.
AS_BEFORE = {"fusion": "mean", "unconditional": "same identity"}
# No older node has these two: they stand where ``files`` puts what an options node chose.
FACE = {"face": "face", "face_index": "face_index"}
FACES = {
    "left-right": "leftmost",
    "right-left": "rightmost",
    "top-bottom": "topmost",
    "bottom-top": "bottommost",
    "small-large": "smallest",
    "large-small": "largest",
}
# An accelerator was taken if there was one, else the CPU: that is our auto.
PROVIDERS = {"CUDA": "auto", "ROCM": "auto", "CoreML": "auto", "gpu": "auto", "cpu": "CPU"}

TABLE = (
    Old("PulidFluxModelLoader", "PuLIDFluxLoadModel", 1, {"pulid_file": "model_name"}),
    # it had no widget; ``files`` keeps the file that nunchaku's loader named here
    Old("PulidFluxEvaClipLoader", "PuLIDFluxLoadEVACLIP", 1, {"eva_clip_file": "model_name"}),
    Old(
        "PulidFluxInsightFaceLoader",
        "PuLIDFluxLoadInsightFace",
        1,
        {"provider": "provider"},
        words={"provider": PROVIDERS},
    ),
    Old(
        "ApplyPulidFlux",
        "PuLIDFluxApply",
        10,
        STRENGTH
        | FUSION
        | {"use_gray": "grayscale"}
        | FACE
        | TARGET
        | PARTS
        | {"prior_image": "prior_image"},
        AS_BEFORE,
    ),
    Old("FixPulidFluxPatch", inputs={"model": "model"}, passes="model"),
    Old(
        "PulidFluxOptions",
        widgets=2,  # the third chose how the face is aligned; here it is always the authors' way
        inputs={"input_faces_order": "face", "input_faces_index": "face_index"},
        words={"face": FACES},
    ),
    Old(
        "PulidFluxFaceDetector",
        "PuLIDFluxEncodeIdentity",
        2,
        FACE | {"image": "image"} | PARTS,
        outputs=(1, 1, 2),
    ),
    Old(
        "NunchakuPuLIDLoaderV2",
        "PuLIDFluxLoadModel",
        3,
        {"pulid_file": "model_name", "eva_clip_file": "eva", "insight_face_provider": "provider"},
        words={"provider": PROVIDERS},
        passes="model",
    ),
    Old("NunchakuFluxPuLIDApplyV2", "PuLIDFluxApply", 3, STRENGTH | TARGET, AS_BEFORE),
)
OLD = {old.id: old for old in TABLE}
