"""The rows of the table for FLUX: older nodes and what takes their place.

Sources: the packs of balazik, lldacing, sipie800, PaoloC68 and GraftingRayman, nunchaku's PuLID
nodes, and the loaders that MultiGPU wraps.
"""

from __future__ import annotations

from dataclasses import replace

from .rows import (
    APPLY,
    ENCODE,
    EVA_CLIP,
    FACE_LOADER,
    MODEL,
    STRENGTH,
    Lost,
    Old,
    on_device,
)

FUSION = ("fusion", "fusion_weight_max", "fusion_weight_min", "train_step", "use_gray")
SAME = {name: name for name in (*STRENGTH, *FUSION, "model", "image", "attn_mask", "prior_image")}
SAME |= {"use_gray": "grayscale", "pulid_flux": "pulid_model", "eva_clip": "eva_clip"}
SAME |= {"face_analysis": "face_analysis"}
# They averaged several photos, gave both sides of true CFG the same identity, and went on without
# a photo in which they found no face.
AS_BEFORE = {"fusion": "mean", "unconditional": "same identity", "on_no_face": "skip"}
FACES = {
    "left-right": "leftmost",
    "right-left": "rightmost",
    "top-bottom": "topmost",
    "bottom-top": "bottommost",
    "small-large": "smallest",
    "large-small": "largest",
}
GR_FACES = {"center_face": "most central", "largest_face": "largest", "smallest_face": "smallest"}
GR_FACES |= {"most_prominent": "largest", "normal": "largest"}
BACKWARDS = (
    "kept, but nunchaku compared it with the noise level, so its window ran backwards; check "
    "when the identity acts now"
)
WINDOW = {"start_at": Lost(BACKWARDS, (0,)), "end_at": Lost(BACKWARDS, (1,))}
AUTO_WEIGHT = Lost(
    "kept, but a photo's weight follows its rank here; Enhanced mixed them up from three photos on",
    ("mean", "concat", "max", "norm_id", "max_token", "train_weight"),
)

LOADERS = (
    Old("PulidFluxModelLoader", MODEL, ("pulid_file",), {"pulid_file": "model_name"}),
    Old("PulidFluxEvaClipLoader", EVA_CLIP),
    replace(FACE_LOADER, id="PulidFluxInsightFaceLoader"),
)
ENHANCED = Old(
    "ApplyPulidFlux",
    APPLY,
    (*STRENGTH, *FUSION),
    SAME,
    AS_BEFORE,
    lost={"fusion": AUTO_WEIGHT},
)
# What nunchaku's loaders say about the two others that take their place.
NUNCHAKU_PARTS = (
    Old("", EVA_CLIP, inputs={"eva_clip_file": "model_name"}),
    Old(
        "",
        EVA_CLIP,
        inputs={"clip_vision_name": "model_name"},
        words={"model_name": {"Auto": None}},
    ),
    replace(FACE_LOADER, inputs={"insight_face_provider": "provider"}),
)
NUNCHAKU = Old(
    "NunchakuPuLIDLoaderV2",
    MODEL,
    ("pulid_file", "eva_clip_file", "insight_face_provider"),
    {"pulid_file": "model_name"},
    passes="model",
    pipeline=1,
    parts=NUNCHAKU_PARTS,
)

FLUX = (
    *LOADERS,
    ENHANCED,
    Old("FixPulidFluxPatch", passes="model"),
    Old(
        "PulidFluxOptions",
        widgets=("input_faces_order", "input_faces_index", "input_faces_align_mode"),
        inputs={"input_faces_order": "face", "input_faces_index": "face_index"},
        words={"face": FACES},
        options=True,
        lost={
            "input_faces_align_mode": Lost(
                "not kept, one face drives both encoders here, as with its 1", (1,)
            )
        },
    ),
    Old(
        "PulidFluxFaceDetector",
        ENCODE,
        inputs={"image": "image", "face_analysis": "face_analysis"},
        values={"on_no_face": "skip"},
        outputs=(1, 1, 2),
    ),
    replace(
        FACE_LOADER,
        id="PulidFluxFaceNetLoader",
        note="there is no FaceNet here; Load InsightFace with antelopev2, on whose vectors PuLID "
        "was trained, is used instead",
    ),
    NUNCHAKU,
    Old(
        "NunchakuFluxPuLIDApplyV2",
        APPLY,
        STRENGTH,
        SAME,
        AS_BEFORE,
        pipeline="pulid_pipline",  # so spelled there
        lost=WINDOW,
    ),
    # nunchaku's first nodes; for a while the loader had widgets
    replace(
        NUNCHAKU,
        id="NunchakuPulidLoader",
        widgets=("ipadapter_name", "clip_vision_name", "version"),
        inputs={"ipadapter_name": "model_name"},
        words={"model_name": {"Auto": None}},
        lost={"version": Lost("not kept, choose that file in Load PuLID Model")},
    ),
    Old(
        "NunchakuPulidApply",
        APPLY,
        ("ip_weight",),
        {"ip_weight": "weight", "model": "model", "image": "image"},
        AS_BEFORE,
        pipeline="pulid",
    ),
    *(replace(row, id=f"GR{row.id}") for row in LOADERS),
    replace(
        ENHANCED,
        id="GRApplyPulidFlux",
        widgets=(*STRENGTH, "use_face_number", "face_number", "blur", "face_select", *FUSION),
        inputs=SAME | {"face_select": "face"},
        words={"face": GR_FACES},
        lost={
            "fusion": AUTO_WEIGHT,
            "use_face_number": Lost("not kept, choose the face with face and face_index", (False,)),
            "blur": Lost("not kept, nothing is blurred here", (0.01,)),
            "face_select": Lost("not kept, the largest face is taken", (*GR_FACES,)[:3]),
        },
    ),
    *(on_device(row, f"{row.id}MultiGPU") for row in LOADERS),
)
