"""What the new nodes take, and an older node's values and links in their terms."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any

from comfy_api.latest import io

from .. import apply, encode, folders, load, sdxl
from .graph import Link
from .rows import EVA_CLIP, MODEL, SDXL_MODEL, Old

CLASSES = {cls.__name__: cls for cls in (*load.NODES, *encode.NODES, *apply.NODES, *sdxl.NODES)}
FILES = {MODEL: folders.PULID, SDXL_MODEL: folders.PULID_SDXL, EVA_CLIP: folders.EVA_CLIP}


class NewNode:
    """A class of this pack, with its inputs in the order of a file's values."""

    def __init__(self, new_id: str):
        self.id = new_id
        self.schema: io.Schema = CLASSES[new_id].define_schema()
        self.inputs = {i.id: i for i in sorted(self.schema.inputs, key=lambda i: bool(i.optional))}

    @cached_property
    def widgets(self) -> list[str]:
        """The names of the inputs that hold values."""
        return [name for name, one in self.inputs.items() if isinstance(one, io.WidgetInput)]

    def usual(self, name: str) -> Any:
        """Return what a widget holds at first; for files, one that is there."""
        one = self.inputs[name]
        value = getattr(one, "default", None)
        return one.options[0] if value is None and getattr(one, "options", None) else value

    def fit(self, name: str, value: Any) -> Any:
        """Return an old value as the widget takes it, None where it cannot."""
        one = self.inputs[name]
        if isinstance(one, io.Boolean.Input):
            return value if isinstance(value, bool) else None
        if isinstance(one, io.Combo.Input):
            return self.choice(name, value, one.options)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        if isinstance(value, bool) or not math.isfinite(number):
            return None
        number = max(one.min, min(one.max, number))
        return number if isinstance(one, io.Float.Input) else int(number)

    def choice(self, name: str, value: Any, options: list[str]) -> str | None:
        """Return one of the options; a file keeps its name, so that ComfyUI can say it is gone."""
        if not isinstance(value, str):
            return None
        if self.id in FILES and name == "model_name" and value.strip():
            return same_file(FILES[self.id], value)
        return value if value in options or (name == "model_pack") else None


def same_file(kind: folders.Kind, name: str) -> str:
    """Return ``name`` as it is listed here; a file saved on Windows has backslashes."""
    listed = name.replace("\\", "/")
    return listed if listed in folders.options(kind) else name


def renamed(
    row: Old, given: Mapping[str, Any], linked: Mapping[Hashable, Link], target: NewNode
) -> tuple[dict[str, Any], dict[Hashable, Link], list[str]]:
    """Return an older node's values and links under their new names, in the new words.

    The last of the three says what is lost or means something else now.
    """
    values, links, lost = {}, {}, []
    for name, one in row.lost.items():
        value = given.get(name)
        if name in linked and name not in row.inputs:
            lost.append(f"{name} comes from a link: {one.why}")
        elif value is not None and value not in one.harmless:
            lost.append(f"{name} {short(value)}: {one.why}")
    for name, new in row.inputs.items():
        words = row.words.get(new, {})
        if name in linked and words:
            lost.append(f"{name} comes from a link; set {new} by hand")
        elif name in linked:
            links[new] = linked[name]
        value = given.get(name) if new in target.widgets else None
        value = words.get(value, value) if isinstance(value, str) else value
        fits = None if value is None else target.fit(new, value)
        if fits is not None:
            values[new] = fits
        if fits is None and value is not None or is_number(value) and fits != value:
            usual = row.values.get(new, target.usual(new)) if fits is None else fits
            lost.append(f"{name} {short(value)}: not kept, {new} is {short(usual)}")
    return values, links, lost


def short(value: Any) -> str:
    """Return a value as a message shows it."""
    return repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
