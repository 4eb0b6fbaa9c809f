"""Photos become an identity."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui
from torch import Tensor

from ..encoders.eva_clip import EvaClip
from ..encoders.faces import FACE_ORDERS, FaceAnalysis, PhotoFeatures, agreement, face_features
from ..host_versions import newer
from ..identity.fusion import FUSIONS, FusionOptions, make_identity
from ..pulid_flux.checkpoint import PulidModel
from . import types
from .feedback import Progress, show
from .prior import prior_features

# ArcFace: photos of one person mostly lie above 0.4, of different people below 0.2
SAME_PERSON = 0.3


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
            **some,
        ),
        io.Int.Input(
            "face_index",
            default=0,
            min=0,
            max=999,
            tooltip="Which face in that order: 0 is the first. The numbers stand in the second "
            "picture.",
            **some,
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
            options=["error", "skip"],
            default="error",
            tooltip="What to do with a photo in which no face is found.",
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
            raw_link=optional or None,
            tooltip="One more photo, before the others; joint does without. train_weight: the "
            "photo to aim at; without it the first of the batch.",
        ),
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
    def execute(
        cls,
        pulid_model: PulidModel,
        eva_clip: EvaClip,
        face_analysis: FaceAnalysis,
        image: Tensor,
        face: str,
        face_index: int,
        fusion: str,
        on_no_face: str,
        grayscale: bool,
        fusion_weight_max: float = 1.0,
        fusion_weight_min: float = 0.0,
        train_step: int = 1000,
        prior_image: Tensor | None = None,
    ) -> io.NodeOutput:
        links = {"eva_clip": eva_clip, "face_analysis": face_analysis, "image": image}
        types.check_links({"prior_image": prior_image}, pulid_model=pulid_model, **links)
        options = FusionOptions(fusion, fusion_weight_max, fusion_weight_min, train_step)
        which = (face, face_index, on_no_face, grayscale, Progress())
        features = face_features(face_analysis, eva_clip, image, *which)
        id_cond, hidden = features.id_cond, features.hidden
        prior = None
        if prior_image is not None and fusion != "joint":  # joint, the authors' way, knows none
            prior = prior_features(face_analysis, eva_clip, prior_image, *which[:-1])
        if prior is not None:
            id_cond = torch.cat((prior.id_cond, id_cond))
            hidden = tuple(torch.cat(pair) for pair in zip(prior.hidden, hidden, strict=True))
        identity = make_identity(pulid_model.id_encoder, id_cond, hidden, options, Progress())
        on_gpu = [
            patcher
            for patcher in (
                face_analysis.sessions,
                face_analysis.parser,
                face_analysis.landmarks,
                eva_clip.patcher,
                pulid_model.id_encoder.patcher,
            )
            if patcher and not comfy.model_management.is_device_cpu(patcher.load_device)
        ]
        release(on_gpu)
        report(cls, features)
        crops = ui.PreviewImage(features.crops, cls=cls).as_dict()["images"]
        photos = ui.PreviewImage(plain_photos(image, features), cls=cls).as_dict()["images"]
        shown = {"images": crops, "pulid_faces": describe_faces(features, photos, face)}
        return io.NodeOutput(identity, features.crops, features.annotated, ui=shown)


def release(patchers: list[ModelPatcher]) -> None:
    """Take models off their devices: sampling comes next and needs the room, not them."""
    loaded = comfy.model_management.current_loaded_models
    keep = [
        m for m in loaded if not any(m.model is not None and m.model.is_clone(p) for p in patchers)
    ]
    for device in {p.load_device for p in patchers}:
        comfy.model_management.free_memory(1e30, device, keep)


def report(node: type[io.ComfyNode], features: PhotoFeatures) -> None:
    """Write on the node which photos were left out and which look like somebody else."""
    lines = []
    skipped = [p.index for p in features.photos if p.skipped]
    if skipped:
        lines.append(f"No face in image {', '.join(map(str, skipped))}: left out.")
    used = [p.index for p in features.photos if not p.skipped]
    if len(used) > 1:
        cosine = agreement(features.arcface)
        others = (cosine.sum(1) - 1) / (len(used) - 1)
        each = ", ".join(f"image {i} {v:.2f}" for i, v in zip(used, others.tolist(), strict=True))
        lines.append(f"How much the faces agree with the others: {each}.")
        for index, value in zip(used, others.tolist(), strict=True):
            if value < SAME_PERSON:
                lines.append(
                    f"Image {index} looks like somebody else: {value:.2f} to the other photos, "
                    f"expected {SAME_PERSON} or more."
                )
    warn = bool(skipped) or any("somebody else" in line for line in lines)
    if lines:
        show(node, "\n".join(lines), warn)


def plain_photos(image: Tensor, features: PhotoFeatures) -> Tensor:
    """Return the photos without boxes in the size of those with; the page draws its own."""
    height, width = features.annotated.shape[1:3]
    colour = image[..., :3].expand(-1, -1, -1, 3).movedim(-1, 1)
    return comfy.utils.common_upscale(colour, width, height, "area", "disabled").movedim(1, -1)


def describe_faces(features: PhotoFeatures, pictures: list[dict], order: str) -> list[dict]:
    """Return, for the page, each photo with its faces in order, boxes as shares of its size."""
    height, width = features.annotated.shape[1:3]
    size = (width, height, width, height)
    return [
        {
            "picture": picture,
            "order": order,
            "chosen": record.chosen,
            "boxes": [[float(v) / s for v, s in zip(f.box, size, strict=True)] for f in faces],
            "scores": [float(f.score) for f in faces],
        }
        for record, picture in zip(features.photos, pictures, strict=True)
        if (faces := record.faces)
    ]


NODES = [PuLIDFluxEncodeIdentity]
