"""The pack's sockets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io

Model = io.Custom("PULID_FLUX_MODEL")
SDXLModel = io.Custom("PULID_SDXL_MODEL")
EvaClip = io.Custom("PULID_EVA_CLIP")
FaceAnalysis = io.Custom("PULID_FACE_ANALYSIS")
Identity = io.Custom("PULID_IDENTITY")

CATEGORY = "PuLID-Flux"
SDXL_CATEGORY = "PuLID-SDXL"


def any_model(name: str) -> io.Input:
    """Return the input of a PuLID model of any family."""
    return io.MultiType.Input(
        name, [Model, SDXLModel], tooltip="From Load PuLID Model or Load PuLID-SDXL Model."
    )


def check_links(optional: dict[str, Any], **required: Any) -> None:
    """Raise ValueError if a socket got a plain value: the API lets one through unseen."""
    given = required | {name: value for name, value in optional.items() if value is not None}
    for name, value in given.items():
        if value is None or isinstance(value, (bool, int, float, str, list, dict)):
            raise ValueError(f"{name} is the value {str(value)[:40]!r}, expected a link to a node.")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError if a value is not one of the widget's choices: a link may bring any."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")
