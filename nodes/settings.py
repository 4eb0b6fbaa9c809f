"""Inputs that the Apply nodes of all model families share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..identity.masks import BOX, REGIONS
from ..identity.run import UNCONDITIONAL
from ..identity.window import CURVES


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
