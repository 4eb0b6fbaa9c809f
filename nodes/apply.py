"""The nodes that put an identity into a FLUX model."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..pulid_flux.apply import apply_identity
from ..pulid_flux.checkpoint import PulidModel
from ..pulid_flux.uses import FluxUse
from . import types
from .applying import apply_identity_node, apply_photo_node, identity_schema, photo_schema
from .feedback import RunReport
from .settings import mask_input, strength_inputs, timing_inputs, use_settings, weight_input

# weight, what it means, usual values of start_at
STRENGTH = (
    1.0,
    "1 is what PuLID was trained for",
    "0.2 (step 4 of 20) for photographs, 0 to 0.05 for drawings and other styles",
)


def block_inputs() -> list[io.Input]:
    """Return factors for the two kinds of FLUX's blocks."""
    more = {"optional": True, "advanced": True}
    return [
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


def apply_inputs(*people: io.Input) -> list[io.Input]:
    """Return the inputs of both Apply nodes up to the blocks' factors; ``people`` says who."""
    return [
        io.Model.Input("model", tooltip="FLUX.1 or Chroma; it is not modified itself."),
        types.Model.Input("pulid_model", tooltip="From Load PuLID Model."),
        *people,
        *strength_inputs(*STRENGTH),
        mask_input(),
        *timing_inputs(),
        *block_inputs(),
    ]


class PuLIDFluxApplyIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return identity_schema(
            apply_inputs,
            node_id="PuLIDFluxApplyIdentity",
            display_name="Apply PuLID-Flux Identity",
            category=types.CATEGORY,
            description="Put an identity into a FLUX model. Chain several for several people.",
            search_aliases=["pulid", "face", "identity"],
        )

    @classmethod
    def execute(cls, *links: Any, **settings: Any) -> io.NodeOutput:
        return apply_identity_node(cls, apply_use, links, settings)


def apply_use(
    report: RunReport,
    model: ModelPatcher,
    pulid_model: PulidModel,
    *settings: Any,
    double_weight: float = 1.0,
    single_weight: float = 1.0,
    **more: Any,
) -> ModelPatcher:
    """Apply an identity by a node's inputs."""
    types.check_links({}, model=model, pulid_model=pulid_model)
    factors = {"double_weight": double_weight, "single_weight": single_weight}
    use = FluxUse(pulid=pulid_model, **use_settings(report, *settings, **more), **factors)
    return apply_identity(model, use)


class PuLIDFluxApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return photo_schema(
            apply_inputs,
            node_id="PuLIDFluxApply",
            display_name="Apply PuLID-Flux",
            category=types.CATEGORY,
            description=(
                "Put the person in a photo into a FLUX model: Encode PuLID Identity and Apply "
                "PuLID-Flux Identity in one node. A new weight or window does not encode the "
                "photo again."
            ),
            search_aliases=["pulid", "ApplyPulidFlux", "face swap", "face id", "identity"],
        )

    @classmethod
    def execute(cls, pulid_model: PulidModel, **inputs: Any) -> io.NodeOutput:
        return apply_photo_node(cls, apply_use, pulid_model, inputs)


NODES = [PuLIDFluxApply, PuLIDFluxApplyIdentity]
