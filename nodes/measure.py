"""The nodes that measure: how alike, and how undisturbed."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..encoders.eva_clip import EvaClip
from ..encoders.faces import FaceAnalysis
from ..host_versions import newer
from ..identity.identity import Identity
from . import types
from .disruption import measure_disruption
from .likeness import PEOPLE, measure_likeness
from .measured import hand_on

TABLE = "Every number of every picture, as JSON."


class PuLIDMeasureIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDMeasureIdentity",
            display_name="Measure Identity",
            category=types.CATEGORY,
            description="Measure how alike the faces in images are to a person: the cosine of face "
            "vectors, with a report image that has the least alike first.",
            search_aliases=["pulid", "similarity", "likeness", "face distance", "cosine"],
            inputs=[
                types.FaceAnalysis.Input(
                    "face_analysis",
                    tooltip="The judge, from Load InsightFace. Best another face pack than the one "
                    "that made the identity: buffalo_l.",
                ),
                io.Image.Input("image", tooltip="The images to measure."),
                io.Combo.Input(
                    "people",
                    options=list(PEOPLE),
                    default=PEOPLE[0],
                    tooltip="Who the reference photos show. one person: the largest face of each, "
                    "all the same person. one per photo: another person in each. every face: each "
                    "face in them, from left to right. No face in an image counts for two people.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Photos of the person. Without them, the face vectors that the "
                    "identity knows are compared with.",
                ),
                types.Identity.Input(
                    "identity",
                    optional=True,
                    tooltip="The identity that was applied. It knows its photos' face vectors, and "
                    "whether the judge made it.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="similarity",
                    tooltip="The mean cosine of all people in all images, -1 to 1; nan if none of "
                    "them has a face.",
                ),
                io.Float.Output(display_name="lowest", tooltip="The lowest one; nan as above."),
                io.Int.Output(
                    display_name="missing", tooltip="How many people were not found in an image."
                ),
                io.String.Output(display_name="table", tooltip=TABLE),
                io.Image.Output(
                    display_name="report", tooltip="The images with their numbers, worst first."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **newer(has_intermediate_output=True),  # show the report of a cached run too
        )

    @classmethod
    def execute(
        cls,
        face_analysis: FaceAnalysis,
        image: Tensor,
        people: str,
        reference: Tensor | None = None,
        identity: Identity | None = None,
    ) -> io.NodeOutput:
        more = {"reference": reference, "identity": identity}
        types.check_links(more, face_analysis=face_analysis, image=image)
        types.check_choice("people", people, PEOPLE)
        measured = measure_likeness(face_analysis, image, people, reference, identity)
        return hand_on(cls, measured)


class PuLIDMeasureDisruption(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDMeasureDisruption",
            display_name="Measure Disruption",
            category=types.CATEGORY,
            description="Measure what an identity changed in an image although it is not the face: "
            "compare it with the image of the same prompt and seed without identity.",
            search_aliases=["pulid", "compare", "difference", "ssim", "editability"],
            inputs=[
                io.Image.Input("image", tooltip="The images with identity."),
                io.Image.Input(
                    "plain_image",
                    tooltip="The images without identity, from the same prompt and seed; one for "
                    "each, or one for all.",
                ),
                types.FaceAnalysis.Input(
                    "face_analysis",
                    optional=True,
                    tooltip="From Load InsightFace. Faces with hair and neck do not count as a "
                    "change; how far they moved and turned is measured.",
                ),
                types.EvaClip.Input(
                    "eva_clip",
                    optional=True,
                    tooltip="From Load EVA-CLIP, to measure how much the scene changed in meaning.",
                ),
                io.Mask.Input(
                    "face_mask",
                    optional=True,
                    tooltip="What may change, instead of the faces found: white = does not count.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="difference",
                    tooltip="Mean difference of the pixels outside the faces, 0 to 1.",
                ),
                io.Float.Output(
                    display_name="structure",
                    tooltip="Structure lost outside the faces (1 - SSIM): 0 = none, 1 = all.",
                ),
                io.Float.Output(
                    display_name="scene",
                    tooltip="How much EVA-CLIP sees another scene, faces blanked: 0 = the same. "
                    "nan without eva_clip.",
                ),
                io.Float.Output(
                    display_name="face_overlap",
                    tooltip="Overlap of the face's places, 0 to 1; nan without a face.",
                ),
                io.Float.Output(
                    display_name="face_size",
                    tooltip="How many times as large the face is with identity; nan as above.",
                ),
                io.Float.Output(
                    display_name="head_turn",
                    tooltip="By how many degrees the head turned; nan as above.",
                ),
                io.String.Output(display_name="table", tooltip=TABLE),
                io.Image.Output(
                    display_name="report",
                    tooltip="Both images with a map of what changed, the most disturbed first.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **newer(has_intermediate_output=True),  # show the report of a cached run too
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        plain_image: Tensor,
        face_analysis: FaceAnalysis | None = None,
        eva_clip: EvaClip | None = None,
        face_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        more = {"face_analysis": face_analysis, "eva_clip": eva_clip, "face_mask": face_mask}
        types.check_links(more, image=image, plain_image=plain_image)
        measured = measure_disruption(image, plain_image, face_analysis, eva_clip, face_mask)
        return hand_on(cls, measured)


NODES = [PuLIDMeasureIdentity, PuLIDMeasureDisruption]
