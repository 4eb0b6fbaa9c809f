"""Inputs that several nodes have: strength, window, mask and region, and which face is meant."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..encoders.faces import FACE_ORDERS, ON_NO_FACE
from ..identity.fusion import FUSIONS
from ..identity.identity import Identity
from ..identity.masks import BOX, REGIONS, in_region, normalise_mask
from ..identity.run import UNCONDITIONAL
from ..identity.window import CURVES, Window
from . import types
from .feedback import RunReport


def weight_input(name: str, tooltip: str, default: float = 1.0, **more: Any) -> io.Input:
    """Return an input for a weight, or a factor of one."""
    bounds = {"default": default, "min": -1.0, "max": 5.0, "step": 0.05}
    return io.Float.Input(name, tooltip=tooltip, **bounds, **more)


def fraction_input(name: str, default: float, tooltip: str) -> io.Input:
    """Return an input for a place in the run, as a fraction of its steps."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def step_input(name: str, tooltip: str, **more: Any) -> io.Input:
    """Return an input for a place in the run, as the number of a step; -1 is none."""
    return io.Int.Input(name, default=-1, min=-1, max=10000, tooltip=tooltip, **more)


def strength_inputs(weight: float, meaning: str, start: str) -> list[io.Input]:
    """Return weight and window, the settings that matter most.

    meaning: of the weight's default; start: usual values of start_at.
    """
    return [
        weight_input(
            "weight",
            f"Strength of the identity: {meaning}, 0 changes nothing. Lower values leave the "
            "prompt more freedom.",
            weight,
        ),
        fraction_input(
            "start_at",
            0.0,
            f"When the identity starts, as a fraction of the sampling steps: {start}. Later = more "
            "editable, less alike.",
        ),
        fraction_input(
            "end_at", 1.0, "When the identity ends, as a fraction of the sampling steps."
        ),
    ]


def mask_input() -> io.Input:
    """Return where in the image the identity acts."""
    return io.Mask.Input(
        "attn_mask",
        optional=True,
        tooltip="Where in the image the identity acts: white = fully, black = not at all. "
        "One mask per person when there are several.",
    )


def timing_inputs() -> list[io.Input]:
    """Return the window in steps, what negative rows get, and the weight's course."""
    more = {"optional": True, "advanced": True}
    return [
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


def use_settings(
    report: RunReport,
    identity: Identity,
    weight: float,
    start_at: float,
    end_at: float,
    attn_mask: Tensor | None = None,
    start_step: int = -1,
    end_step: int = -1,
    unconditional: str = UNCONDITIONAL[0],
    weight_curve: str = "constant",
    region: str = next(iter(REGIONS)),
    region_box: str = "",
) -> dict[str, Any]:
    """Return what an IdentityUse of any family is told, by the inputs of an Apply node."""
    types.check_links({"attn_mask": attn_mask}, identity=identity)
    return {
        "identity": identity,
        "weight": weight,
        "window": Window(start_at, end_at, start_step, end_step, weight_curve),
        "mask": in_region(normalise_mask(attn_mask), region, region_box),
        "unconditional": unconditional,
        "report": report,
    }
