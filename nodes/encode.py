"""The node that turns photos into an identity."""

from __future__ import annotations

from typing import Any

import numpy as np
from comfy_api.latest import io, ui
from torch import Tensor

from ..encoders.eva_clip import EvaClip
from ..encoders.faces import (
    FACE_ORDERS,
    ON_NO_FACE,
    FaceAnalysis,
    NoFace,
    PhotoRecord,
    read_photos,
)
from ..host_versions import newer
from ..identity.fusion import FUSIONS, FusionOptions
from ..pulid_flux.checkpoint import PulidModel
from ..pulid_sdxl.checkpoint import PulidSDXLModel
from . import types
from .encoding import Encoded, Encoders, Question, annotated, encode_photos, notes_on, plain
from .feedback import send_faces, show


def face_inputs(optional: bool) -> list[io.Input]:
    """Return the inputs that say which face is meant and how photos are joined.

    ``optional`` is for the node that hands them on to Encode PuLID Identity.
    """
    some = {"optional": optional, "advanced": optional or None}
    more = {"optional": True, "advanced": True}
    return [
        io.Combo.Input(
            "face",
            options=list(FACE_ORDERS),
            default=FACE_ORDERS[0],
            tooltip="The order in which faces are counted; the first is used unless face_index "
            "says otherwise.",
            optional=optional,
        ),
        io.Int.Input(
            "face_index",
            default=0,
            min=0,
            max=999,
            tooltip="Which face in that order, counted from 0. The node shows the numbers.",
            optional=optional,
        ),
        io.Combo.Input(
            "fusion",
            options=list(FUSIONS),
            default=FUSIONS[0],
            tooltip="How several photos become one identity. joint: through the encoder "
            "together, as the authors do. mean: the average. concat: all tokens side by side, "
            "slower to sample. first-five, id_mix: the authors' ways for SDXL v1, where joint "
            "means first-five; id_mix mixes people.",
            **some,
        ),
        io.Combo.Input(
            "on_no_face",
            options=list(ON_NO_FACE),
            default=ON_NO_FACE[0],
            tooltip="What to do when no face is found in a photo. error: stop. skip: leave that "
            "photo out; if none is left, use the model without identity. plain model: use the "
            "model without identity. The node says which happened.",
            **some,
        ),
        io.Boolean.Input(
            "grayscale",
            default=True,
            tooltip="Show EVA-CLIP the face without colour, as in PuLID's training. Off lets "
            "the photo's skin tone and lighting into the image.",
            **some,
        ),
        io.Float.Input(
            "fusion_weight_max",
            default=1.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="auto_weight: the weight of the strongest photo, for each token.",
            **more,
        ),
        io.Float.Input(
            "fusion_weight_min",
            default=0.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="auto_weight: the weight of the weakest photo, for each token.",
            **more,
        ),
        io.Int.Input(
            "train_step",
            default=1000,
            min=0,
            max=20000,
            tooltip="train_weight: for how many steps the mixing weights are trained.",
            **more,
        ),
        io.Image.Input(
            "prior_image",
            optional=True,
            tooltip="One more photo, placed before the others; joint does not use it. "
            "train_weight: the photo to approximate; without it, the first of the batch.",
        ),
    ]


def points_inputs() -> list[io.Input]:
    """Return the points of a face that no detector finds; last, as files store values in order."""
    return [
        io.String.Input(
            "face_points",
            default="",
            optional=True,
            advanced=True,
            tooltip="For a face that no detector finds (a drawing, a close-up): left eye, right "
            "eye, nose, left and right corner of the mouth, each as x, y in percent of the "
            "photo. Clicking them in the photo on the node sets it. Empty: detect the face.",
        )
    ]


class PuLIDFluxEncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxEncodeIdentity",
            display_name="Encode PuLID Identity",
            category=types.CATEGORY,
            description="Find the face in one or more photos of a person and encode their "
            "identity.",
            search_aliases=["pulid", "face", "identity", "PulidFluxFaceDetector"],
            inputs=[
                types.any_model("pulid_model"),
                types.EvaClip.Input("eva_clip", tooltip="From Load EVA-CLIP."),
                types.FaceAnalysis.Input("face_analysis", tooltip="From Load InsightFace."),
                io.Image.Input(
                    "image",
                    tooltip="A photo, or a batch of photos of the same person. A list "
                    "of photos gives one identity for each.",
                ),
                *face_inputs(optional=False),
                *points_inputs(),
            ],
            outputs=[
                types.Identity.Output(display_name="identity"),
                io.Image.Output(
                    display_name="faces", tooltip="The crops that EVA-CLIP saw, one per photo."
                ),
                io.Image.Output(
                    display_name="photos", tooltip="The photos with every face numbered."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **newer(has_intermediate_output=True),  # show the pictures of a cached run too
        )

    @classmethod
    def execute(cls, *links: Any, **settings: Any) -> io.NodeOutput:
        encoded, photos, shown = encode_faces(cls, *links, **settings)
        numbered = annotated(photos, encoded)
        return io.NodeOutput(encoded.identity, encoded.faces, numbered, ui=shown)


def encode_faces(
    node: type[io.ComfyNode],
    pulid_model: PulidModel | PulidSDXLModel,
    eva_clip: EvaClip,
    face_analysis: FaceAnalysis,
    image: Tensor,
    face: str = FACE_ORDERS[0],
    face_index: int = 0,
    fusion: str = FUSIONS[0],
    on_no_face: str = ON_NO_FACE[0],
    grayscale: bool = True,
    fusion_weight_max: float = 1.0,
    fusion_weight_min: float = 0.0,
    train_step: int = 1000,
    prior_image: Tensor | None = None,
    face_points: str = "",
) -> tuple[Encoded, list[np.ndarray], dict[str, list]]:
    """Encode ``image`` by a node's inputs: the result, the photos as seen, what to show."""
    links = {"eva_clip": eva_clip, "face_analysis": face_analysis, "image": image}
    types.check_links({"prior_image": prior_image}, pulid_model=pulid_model, **links)
    options = FusionOptions(fusion, fusion_weight_max, fusion_weight_min, train_step)
    encoders = Encoders(pulid_model.id_encoder, eva_clip, face_analysis)
    question = Question(face, face_index, on_no_face, grayscale, options, face_points)
    try:
        encoded = encode_photos(encoders, image, prior_image, question)
    except NoFace as error:
        photo = read_photos(image)[error.index]
        faceless = PhotoRecord(error.index, (), None)
        send_faces(node, pictured(node, (faceless,), [photo], face))
        raise
    photos = read_photos(image)
    return encoded, photos, shown_faces(node, encoded, photos, face)


def encode_own(
    node: type[io.ComfyNode], pulid_model: PulidModel | PulidSDXLModel, inputs: dict[str, Any]
) -> tuple[Encoded, dict[str, list], dict[str, Any]]:
    """Encode a photo for a node that applies it too: the result, what to show, the other inputs.

    One node, not an expansion into two: of an expansion's list of models ComfyUI keeps one.
    """
    asked = (*face_inputs(optional=True), *points_inputs())
    names = {"eva_clip", "face_analysis", "image", *(i.id for i in asked)}
    own = {name: value for name, value in inputs.items() if name in names}
    encoded, _, shown = encode_faces(node, pulid_model, **own)
    return encoded, shown, {name: inputs[name] for name in inputs.keys() - names}


def shown_faces(
    node: type[io.ComfyNode], encoded: Encoded, photos: list[np.ndarray], order: str
) -> dict[str, list]:
    """Return what the page shows: crops, photos with their faces in this order, and notes."""
    crops = []
    if not encoded.identity.is_nobody:
        crops = ui.PreviewImage(encoded.faces, cls=node).as_dict()["images"]
    faces = pictured(node, encoded.photos, photos, order)
    return {"images": crops, "pulid_faces": faces, **show(node, notes_on(encoded))}


def pictured(
    node: type[io.ComfyNode],
    records: tuple[PhotoRecord, ...],
    photos: list[np.ndarray],
    order: str,
) -> list[dict]:
    """Return, for the page, each photo as a preview with its faces in this order."""
    pictures = ui.PreviewImage(plain(photos), cls=node).as_dict()["images"]
    return describe_faces(records, pictures, photos[0].shape[:2], order)


def describe_faces(
    records: tuple[PhotoRecord, ...], pictures: list[dict], size: tuple[int, int], order: str
) -> list[dict]:
    """Return, for the page, each photo with its faces in order, boxes as fractions of its size."""
    height, width = size
    edges = (width, height, width, height)
    return [
        {
            "picture": picture,
            "order": order,
            "chosen": record.chosen,
            "boxes": [[float(v) / s for v, s in zip(f.box, edges, strict=True)] for f in found],
            "scores": [float(f.score) for f in found],
            "by_hand": any(f.by_hand for f in found),
        }
        for record, picture in zip(records, pictures, strict=True)
        for found in (record.faces,)
    ]


NODES = [PuLIDFluxEncodeIdentity]
