"""What a row of the table of older nodes says, and the words that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MODEL, SDXL_MODEL = "PuLIDFluxLoadModel", "PuLIDSDXLLoadModel"
EVA_CLIP, INSIGHT_FACE = "PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace"
APPLY, SDXL_APPLY, ENCODE = "PuLIDFluxApply", "PuLIDSDXLApply", "PuLIDFluxEncodeIdentity"
# The inputs of Apply and Encode that the three loaders go to.
PARTS = {"pulid_model": MODEL, "eva_clip": EVA_CLIP, "face_analysis": INSIGHT_FACE}
SDXL_PARTS = PARTS | {"pulid_model": SDXL_MODEL}
USERS = {APPLY: PARTS, ENCODE: PARTS, SDXL_APPLY: SDXL_PARTS}
# Old socket types that our sockets take the place of.
TYPES = {
    "PULIDFLUX": "PULID_FLUX_MODEL",
    "PULID": "PULID_SDXL_MODEL",
    "EVA_CLIP": "PULID_EVA_CLIP",
    "FACEANALYSIS": "PULID_FACE_ANALYSIS",
}


@dataclass(frozen=True)
class Lost:
    """A setting that is lost or means something else here: what is said of it, unless harmless."""

    why: str
    harmless: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Old:
    """A node of an older pack.

    new_id: what takes its place, "" if nothing does; widgets: old names in the order in which a
    file stores their values; inputs: old name -> new name; values: what the new node is told
    besides; words: new name -> old word -> new word; outputs: the new output for each old one;
    passes: the input that comes out again at output 0; options: it gives others its settings;
    pipeline: the input that brings all three models, or for a loader the output that sends them
    out; parts: what a node that loads models itself says about them, a row for each; lost: what has
    no counterpart; note: what is always said; beside: exchanged only where it feeds another node of
    the table, since its pack also serves other models; needs: a node of another pack without which
    it cannot run.
    """

    id: str
    new_id: str = ""
    widgets: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    outputs: tuple[int, ...] = (0,)
    passes: str = ""
    options: bool = False
    pipeline: str | int = ""
    parts: tuple[Old, ...] = ()
    lost: Mapping[str, Lost] = field(default_factory=dict)
    note: str = ""
    beside: bool = False
    needs: str = ""


STRENGTH = ("weight", "start_at", "end_at")
# An accelerator was a wish there, taken where onnxruntime had it: that is our auto.
PROVIDERS = {"CUDA": "auto", "ROCM": "auto", "CoreML": "auto", "gpu": "auto", "cpu": "CPU"}
PROVIDERS |= {"CPU": "CPU"}
# No other pack may stand in for it: PuLID was trained on its vectors.
PACK = {"model_pack": "antelopev2"}
FACE_LOADER = Old(
    "",
    INSIGHT_FACE,
    ("provider",),
    {"provider": "provider"},
    PACK,
    {"provider": PROVIDERS},
)


def on_device(row: Old, old_id: str, beside: bool = False) -> Old:
    """Return the row of a loader that MultiGPU wraps: one more widget, the device."""
    lost = Lost("not kept, ComfyUI chooses the device; for the face models choose a provider")
    return replace(
        row, id=old_id, widgets=(*row.widgets, "device"), lost={"device": lost}, beside=beside
    )
