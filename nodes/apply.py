"""The nodes that put an identity into a FLUX model."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..host_versions import newer
from ..identity.identity import Identity
from ..identity.masks import BOX, REGIONS, in_region, normalise_mask
from ..identity.run import UNCONDITIONAL
from ..identity.window import CURVES, Window
from ..pulid_flux.apply import apply_identity
from ..pulid_flux.checkpoint import PulidModel
from ..pulid_flux.uses import FluxUse
from . import types
from .encode import encode_faces, face_inputs, points_inputs
from .feedback import show_steps


def weight_input(name: str, tooltip: str, **more: Any) -> io.Input:
    """Return an input for a weight, or a factor of one; 1 is what PuLID was trained for."""
    bounds = {"default": 1.0, "min": -1.0, "max": 5.0, "step": 0.05}
    return io.Float.Input(name, tooltip=tooltip, **bounds, **more)


def fraction_input(name: str, default: float, tooltip: str) -> io.Input:
    """Return an input for a place in the run, as a fraction of its steps."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def step_input(name: str, tooltip: str, **more: Any) -> io.Input:
    """Return an input for a place in the run, as the number of a step; -1 is none."""
    return io.Int.Input(name, default=-1, min=-1, max=10000, tooltip=tooltip, **more)


def strength_inputs() -> list[io.Input]:
    """Return weight and window, the settings that matter most."""
    return [
        weight_input(
            "weight",
            "Strength of the identity: 1 is what PuLID was trained for, 0 changes "
            "nothing. Lower values leave the prompt more freedom.",
        ),
        fraction_input(
            "start_at",
            0.0,
            "When the identity starts, as a fraction of the sampling steps: 0.2 (step 4 "
            "of 20) for photographs, 0 to 0.05 for drawings and other styles. Later = more "
            "editable, less alike.",
        ),
        fraction_input(
            "end_at", 1.0, "When the identity ends, as a fraction of the sampling steps."
        ),
    ]


def injection_inputs() -> list[io.Input]:
    """Return the options of the injection."""
    more = {"optional": True, "advanced": True}
    return [
        io.Mask.Input(
            "attn_mask",
            optional=True,
            tooltip="Where in the image the identity acts: white = fully, black = not at all. "
            "One mask per person when there are several.",
        ),
        step_input(
            "start_step",
            "The first step with identity, counted from 0; -1 = use start_at.",
            **more,
        ),
        step_input(
            "end_step",
            "The step at which the identity ends (the first one without it); -1 = use end_at.",
            **more,
        ),
        io.Combo.Input(
            "unconditional",
            options=list(UNCONDITIONAL),
            default=UNCONDITIONAL[0],
            tooltip="What the negative prompt gets under true CFG (cfg above 1). The authors "
            "use the zero identity.",
            **more,
        ),
        io.Combo.Input(
            "weight_curve",
            options=list(CURVES),
            default="constant",
            tooltip="How the weight changes between start and end.",
            **more,
        ),
        weight_input(
            "double_weight",
            "An additional factor for the double blocks, where image and text are separate "
            "streams.",
            **more,
        ),
        weight_input(
            "single_weight",
            "An additional factor for the single blocks, which draw the details.",
            **more,
        ),
    ]


def region_inputs() -> list[io.Input]:
    """Return where in the image the person is; last, since files store values in order."""
    more = {"optional": True, "advanced": True}
    return [
        io.Combo.Input(
            "region",
            options=[*REGIONS, BOX],
            default=next(iter(REGIONS)),
            tooltip="Which part of the image the person is in, without painting a mask. With "
            "attn_mask as well, only where both overlap.",
            **more,
        ),
        io.String.Input(
            "region_box",
            default="25, 0, 50, 100",
            tooltip="For region = box: left, top, width and height in percent of the image.",
            **more,
        ),
    ]


class PuLIDFluxApplyIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxApplyIdentity",
            display_name="Apply PuLID-Flux Identity",
            category=types.CATEGORY,
            description="Put an identity into a FLUX model. Chain several for several people.",
            search_aliases=["pulid", "face", "identity"],
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 or Chroma; it is not modified itself."),
                types.Model.Input("pulid_model", tooltip="From Load PuLID Model."),
                types.Identity.Input(
                    "identity", tooltip="From Encode, Load or Blend PuLID Identity."
                ),
                *strength_inputs(),
                *injection_inputs(),
                *region_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with the identity.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, *links: Any, **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(apply_use(cls, *links, **settings))


def apply_use(
    node: type[io.ComfyNode],
    model: ModelPatcher,
    pulid_model: PulidModel,
    identity: Identity,
    weight: float,
    start_at: float,
    end_at: float,
    attn_mask: Tensor | None = None,
    start_step: int = -1,
    end_step: int = -1,
    unconditional: str = UNCONDITIONAL[0],
    weight_curve: str = "constant",
    double_weight: float = 1.0,
    single_weight: float = 1.0,
    region: str = next(iter(REGIONS)),
    region_box: str = "",
) -> ModelPatcher:
    """Apply an identity by a node's inputs; after a run the node shows in which steps it acted."""
    links = {"model": model, "pulid_model": pulid_model, "identity": identity}
    types.check_links({"attn_mask": attn_mask}, **links)
    use = FluxUse(
        pulid=pulid_model,
        identity=identity,
        weight=weight,
        window=Window(start_at, end_at, start_step, end_step, weight_curve),
        mask=in_region(normalise_mask(attn_mask), region, region_box),
        unconditional=unconditional,
        report=show_steps(node),
        double_weight=double_weight,
        single_weight=single_weight,
    )
    return apply_identity(model, use)


class PuLIDFluxApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxApply",
            display_name="Apply PuLID-Flux",
            category=types.CATEGORY,
            description=(
                "Put the person in a photo into a FLUX model: Encode PuLID Identity and Apply "
                "PuLID-Flux Identity in one node. A new weight or window does not encode the "
                "photo again."
            ),
            search_aliases=["pulid", "ApplyPulidFlux", "face swap", "face id", "identity"],
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 or Chroma; it is not modified itself."),
                types.Model.Input("pulid_model", tooltip="From Load PuLID Model."),
                types.EvaClip.Input("eva_clip", tooltip="From Load EVA-CLIP."),
                types.FaceAnalysis.Input("face_analysis", tooltip="From Load InsightFace."),
                io.Image.Input(
                    "image",
                    tooltip="A photo, or a batch of photos of the same person. A list "
                    "of photos gives one image for each.",
                ),
                *strength_inputs(),
                *injection_inputs(),
                *face_inputs(optional=True),
                *region_inputs(),
                *points_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with the identity.")],
            hidden=[io.Hidden.unique_id],
            **newer(has_intermediate_output=True),  # show the faces of a cached run too
        )

    @classmethod
    def execute(cls, pulid_model: PulidModel, **inputs: Any) -> io.NodeOutput:
        # one node, not an expansion into two: of an expansion's list of models ComfyUI keeps one
        asked = (*face_inputs(optional=True), *points_inputs())
        names = {"eva_clip", "face_analysis", "image", *(i.id for i in asked)}
        for_encode = {name: inputs.pop(name) for name in names & set(inputs)}
        encoded, _, shown = encode_faces(cls, pulid_model, **for_encode)
        model = apply_use(cls, pulid_model=pulid_model, identity=encoded.identity, **inputs)
        return io.NodeOutput(model, ui=shown)


NODES = [PuLIDFluxApply, PuLIDFluxApplyIdentity]
