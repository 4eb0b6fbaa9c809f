"""What differs between the ComfyUI versions that this pack runs on, all in one place.

Nothing of ComfyUI is imported at the top: this is read before it is known to be new enough.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

OLDEST = "0.16.3"  # the oldest that the tests pass on; pyproject.toml and the README say the same


def too_old() -> str | None:
    """Return what to tell the user if this ComfyUI is older than ``OLDEST``, else None."""
    try:
        from comfyui_version import __version__ as found
    except ImportError:  # the first releases do not tell
        found = "unknown"
    if found != "unknown" and numbers(found) >= numbers(OLDEST):
        return None
    return (
        f"PuLID-Flux Native needs ComfyUI {OLDEST} or newer, but this is version {found}: none of "
        "its nodes are available. Update ComfyUI and restart."
    )


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's leading numbers, for comparing: "0.16.3-dev" is (0, 16, 3)."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)


def newer(**fields: Any) -> dict[str, Any]:
    """Return the fields of a node's schema that this ComfyUI knows; the others are optional."""
    from comfy_api.latest import io

    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {name: value for name, value in fields.items() if name in known}
