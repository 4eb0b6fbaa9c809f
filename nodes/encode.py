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
from .settings import face_inputs, points_inputs


def photo_inputs(gives: str) -> list[io.Input]:
    """Return photo, tower and face models; ``gives``: what each photo of a list makes."""
    return [
        types.EvaClip.Input("eva_clip", tooltip="From Load EVA-CLIP."),
        types.FaceAnalysis.Input("face_analysis", tooltip="From Load InsightFace."),
        io.Image.Input(
            "image",
            tooltip="A photo, or a batch of photos of the same person. A list "
            f"of photos gives one {gives} for each.",
        ),
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
                *photo_inputs("identity"),
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
        raise ValueError(*error.args) from error  # its type stands in the history
    photos = read_photos(image)
    return encoded, photos, shown_faces(node, encoded, photos, face)


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
