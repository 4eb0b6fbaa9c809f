"""What the Apply nodes of all model families do alike: by an identity, or by a photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..host_versions import newer
from ..pulid_flux.checkpoint import PulidModel
from ..pulid_sdxl.checkpoint import PulidSDXLModel
from . import types
from .encode import encode_faces, photo_inputs
from .feedback import RunReport
from .settings import face_inputs, points_inputs, region_inputs

# Applies an identity by a node's inputs.
Apply = Callable[..., ModelPatcher]
# A family's inputs up to its own settings, given those that say who the person is.
ApplyInputs = Callable[..., list[io.Input]]


def patching_schema(inputs: list[io.Input], **names: Any) -> io.Schema:
    """Return the schema of a node that puts an identity into a model; ``names``: io.Schema's."""
    return io.Schema(
        inputs=inputs,
        outputs=[io.Model.Output(tooltip="The model with the identity.")],
        hidden=[io.Hidden.unique_id],
        **names,
    )


def identity_schema(apply_inputs: ApplyInputs, **names: Any) -> io.Schema:
    """Return the schema of a node that an identity is linked to."""
    who = types.Identity.Input("identity", tooltip="From Encode, Load or Blend PuLID Identity.")
    return patching_schema([*apply_inputs(who), *region_inputs()], **names)


def photo_schema(apply_inputs: ApplyInputs, **names: Any) -> io.Schema:
    """Return the schema of a node that encodes a photo and applies it."""
    inputs = [*apply_inputs(*photo_inputs("image")), *face_inputs(optional=True)]
    inputs += [*region_inputs(), *points_inputs()]
    show_if_cached = newer(has_intermediate_output=True)  # the faces of the photo
    return patching_schema(inputs, **names, **show_if_cached)


def apply_identity_node(
    node: type[io.ComfyNode], apply: Apply, links: Sequence[Any], settings: dict[str, Any]
) -> io.NodeOutput:
    """Return the output of a node that an identity is linked to."""
    report = RunReport(node)
    return io.NodeOutput(apply(report, *links, **settings), ui=report.output)


def apply_photo_node(
    node: type[io.ComfyNode],
    apply: Apply,
    pulid_model: PulidModel | PulidSDXLModel,
    inputs: dict[str, Any],
) -> io.NodeOutput:
    """Return the output of a node that encodes a photo and applies it.

    One node, not an expansion into two: of an expansion's list of models ComfyUI keeps one.
    """
    asked = (*face_inputs(optional=True), *points_inputs())
    names = {"eva_clip", "face_analysis", "image", *(i.id for i in asked)}
    own = {name: value for name, value in inputs.items() if name in names}
    rest = {name: value for name, value in inputs.items() if name not in names}
    encoded, _, shown = encode_faces(node, pulid_model, **own)
    report = RunReport(node)
    model = apply(report, pulid_model=pulid_model, identity=encoded.identity, **rest)
    return io.NodeOutput(model, ui={**shown, **report.output})
