"""Photos become an identity."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..encoders.eva_clip import EvaClip
from ..encoders.faces import FACE_ORDERS, ON_NO_FACE, FaceAnalysis, PhotoRecord
from ..host_versions import newer
from ..identity.fusion import FUSIONS, FusionOptions
from ..pulid_flux.checkpoint import PulidModel
from . import types
from .encoding import Encoded, Encoders, Question, annotated, encode_photos, notes_on, plain_photos
from .feedback import show


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
            tooltip="In which order faces are counted; the first is taken unless face_index says "
            "otherwise.",
            optional=optional,
        ),
        io.Int.Input(
            "face_index",
            default=0,
            min=0,
            max=999,
            tooltip="Which face in that order: 0 is the first. The numbers stand in the second "
            "picture.",
            optional=optional,
        ),
        io.Combo.Input(
            "fusion",
            options=list(FUSIONS),
            default=FUSIONS[0],
            tooltip="How several photos become one identity. joint: together through the encoder, "
            "as the authors do. mean: the average. concat: all side by side, dearer to sample.",
            **some,
        ),
        io.Combo.Input(
            "on_no_face",
            options=list(ON_NO_FACE),
            default=ON_NO_FACE[0],
            tooltip="What to do with a photo in which no face is found. error: stop. skip: leave "
            "that photo out. plain model: leave the identity out. Where no photo is left, the "
            "model is used as it is, and the node says so.",
            **some,
        ),
        io.Boolean.Input(
            "grayscale",
            default=True,
            tooltip="Show EVA-CLIP the face without colour, as PuLID was trained. Off lets skin "
            "tone and light of the photo into the picture.",
            **some,
        ),
        io.Float.Input(
            "fusion_weight_max",
            default=1.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="auto_weight: the weight of the strongest photo, token by token.",
            **more,
        ),
        io.Float.Input(
            "fusion_weight_min",
            default=0.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="auto_weight: the weight of the weakest photo, token by token.",
            **more,
        ),
        io.Int.Input(
            "train_step",
            default=1000,
            min=0,
            max=20000,
            tooltip="train_weight: how many steps the mixing weights are trained.",
            **more,
        ),
        io.Image.Input(
            "prior_image",
            optional=True,
            tooltip="One more photo, before the others; joint does without. train_weight: the "
            "photo to aim at; without it the first of the batch.",
        ),
    ]


def points_inputs() -> list[io.Input]:
    """Return the input for a face that no detector finds; the last one, as files store them."""
    return [
        io.String.Input(
            "face_points",
            default="",
            optional=True,
            advanced=True,
            tooltip="For a face that is not found (a drawing, a close-up): left eye, right eye, "
            "nose, left and right corner of the mouth, each x, y in percent of the photo. Empty: "
            "find it.",
        )
    ]


class PuLIDFluxEncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxEncodeIdentity",
            display_name="Encode PuLID Identity",
            category=types.CATEGORY,
            description="Find the face in one or more photos of a person and encode who it is.",
            search_aliases=["pulid", "face", "identity", "PulidFluxFaceDetector"],
            inputs=[
                types.Model.Input("pulid_model", tooltip="From Load PuLID Model."),
                types.EvaClip.Input("eva_clip", tooltip="From Load EVA-CLIP."),
                types.FaceAnalysis.Input("face_analysis", tooltip="From Load InsightFace."),
                io.Image.Input(
                    "image", tooltip="A photo; a batch is several photos of the same person."
                ),
                *face_inputs(optional=False),
                *points_inputs(),
            ],
            outputs=[
                types.Identity.Output(display_name="identity"),
                io.Image.Output(
                    display_name="faces", tooltip="The crops that EVA-CLIP saw, one for each photo."
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
        return io.NodeOutput(encoded.identity, encoded.faces, photos, ui=shown)


def encode_faces(
    node: type[io.ComfyNode],
    pulid_model: PulidModel,
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
) -> tuple[Encoded, Tensor, dict[str, list]]:
    """Encode ``image`` by a node's inputs: the result, the photos with boxes, what to show."""
    links = {"eva_clip": eva_clip, "face_analysis": face_analysis, "image": image}
    types.check_links({"prior_image": prior_image}, pulid_model=pulid_model, **links)
    options = FusionOptions(fusion, fusion_weight_max, fusion_weight_min, train_step)
    encoded = encode_photos(
        Encoders(pulid_model.id_encoder, eva_clip, face_analysis),
        image,
        prior_image,
        Question(face, face_index, on_no_face, grayscale, options, face_points),
    )
    photos = annotated(image, encoded)
    return encoded, photos, shown_faces(node, encoded, image, photos.shape[1:3], face)


def shown_faces(
    node: type[io.ComfyNode], encoded: Encoded, image: Tensor, size: tuple[int, int], order: str
) -> dict[str, list]:
    """Return what the page shows: crops, and the photos in ``size`` with their faces."""
    crops = (
        ui.PreviewImage(encoded.faces, cls=node).as_dict()["images"] if len(encoded.crops) else []
    )
    photos = ui.PreviewImage(plain_photos(image), cls=node).as_dict()["images"]
    faces = describe_faces(encoded.photos, photos, size, order)
    return {"images": crops, "pulid_faces": faces, **show(node, notes_on(encoded))}


def describe_faces(
    records: tuple[PhotoRecord, ...], pictures: list[dict], size: tuple[int, int], order: str
) -> list[dict]:
    """Return, for the page, each photo with its faces in order, boxes as shares of its size."""
    height, width = size
    edges = (width, height, width, height)
    return [
        {
            "picture": picture,
            "order": order,
            "chosen": record.chosen,
            "boxes": [[float(v) / s for v, s in zip(f.box, edges, strict=True)] for f in found],
            "scores": [float(f.score) for f in found],
        }
        for record, picture in zip(records, pictures, strict=True)
        for found in (record.faces,)
    ]


NODES = [PuLIDFluxEncodeIdentity]
