"""The nodes that put an identity into an SDXL model."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..identity.identity import Identity
from ..pulid_sdxl.apply import apply_identity
from ..pulid_sdxl.checkpoint import PulidSDXLModel
from ..pulid_sdxl.id_attention import PROJECTIONS
from ..pulid_sdxl.uses import METHODS, SDXLUse
from . import types
from .applying import apply_identity_node, apply_photo_node, identity_schema, photo_schema
from .feedback import RunReport
from .settings import mask_input, strength_inputs, timing_inputs, use_settings

CUSTOM = "custom"
# weight, what it means, usual values of start_at
STRENGTH = (0.8, "0.8 is the authors' setting", "the authors' is 0, the first step")
SUITS = "SDXL, Pony, Illustrious or another model of that UNet; it is not modified itself."


def method_input() -> io.Input:
    """Return how the identity is joined with what the prompt says."""
    return io.Combo.Input(
        "method",
        options=[*METHODS, CUSTOM],
        default=next(iter(METHODS)),
        tooltip="fidelity: most alike (8 zero tokens, ortho_v2). style: leaves more to the prompt "
        "and the style (16, ortho). neutral: added as it is (0, none). custom: num_zero and "
        "projection decide.",
    )


def custom_inputs() -> list[io.Input]:
    """Return what method = custom looks at."""
    more = {"optional": True, "advanced": True}
    return [
        io.Int.Input(
            "num_zero",
            default=20,
            min=0,
            max=80,
            tooltip="For method = custom: zero tokens beside the ID tokens. More = weaker and more "
            "editable. The authors use 20 with v1.1.",
            **more,
        ),
        io.Combo.Input(
            "projection",
            options=list(PROJECTIONS),
            default=PROJECTIONS[0],
            tooltip="For method = custom: whether what the prompt draws already is left out of the "
            "identity. ortho: all of it. ortho_v2: less where the face is. none: nothing.",
            **more,
        ),
    ]


def apply_inputs(*people: io.Input) -> list[io.Input]:
    """Return the inputs of both Apply nodes up to the weight's course; ``people`` says who."""
    return [
        io.Model.Input("model", tooltip=SUITS),
        types.SDXLModel.Input("pulid_model", tooltip="From Load PuLID-SDXL Model."),
        *people,
        method_input(),
        *strength_inputs(*STRENGTH),
        mask_input(),
        *custom_inputs(),
        *timing_inputs(),
    ]


class PuLIDSDXLApplyIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return identity_schema(
            apply_inputs,
            node_id="PuLIDSDXLApplyIdentity",
            display_name="Apply PuLID-SDXL Identity",
            category=types.SDXL_CATEGORY,
            description="Put an identity into an SDXL model. Chain several for several people.",
            search_aliases=["pulid", "sdxl", "face", "identity"],
        )

    @classmethod
    def execute(cls, *links: Any, **settings: Any) -> io.NodeOutput:
        return apply_identity_node(cls, apply_use, links, settings)


def apply_use(
    report: RunReport,
    model: ModelPatcher,
    pulid_model: PulidSDXLModel,
    identity: Identity,
    method: str,
    *settings: Any,
    num_zero: int = 20,
    projection: str = PROJECTIONS[0],
    **more: Any,
) -> ModelPatcher:
    """Apply an identity by a node's inputs."""
    types.check_links({}, model=model, pulid_model=pulid_model)
    types.check_choice("method", method, (*METHODS, CUSTOM))
    zeros, projected = METHODS.get(method, (num_zero, projection))
    common = use_settings(report, identity, *settings, **more)
    use = SDXLUse(pulid=pulid_model, **common, num_zero=zeros, projection=projected)
    return apply_identity(model, use)


class PuLIDSDXLApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return photo_schema(
            apply_inputs,
            node_id="PuLIDSDXLApply",
            display_name="Apply PuLID-SDXL",
            category=types.SDXL_CATEGORY,
            description=(
                "Put the person in a photo into an SDXL model: Encode PuLID Identity and Apply "
                "PuLID-SDXL Identity in one node. A new weight or window does not encode the "
                "photo again."
            ),
            search_aliases=["pulid", "sdxl", "ApplyPulid", "face swap", "face id", "identity"],
        )

    @classmethod
    def execute(cls, pulid_model: PulidSDXLModel, **inputs: Any) -> io.NodeOutput:
        return apply_photo_node(cls, apply_use, pulid_model, inputs)


NODES = [PuLIDSDXLApply, PuLIDSDXLApplyIdentity]
