"""Tables of a settings file as frozen dataclasses, with errors that say what is wrong and where."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Table = TypeVar("Table")
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def number(default: float | None = None, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field for a number from ``low`` to ``high``; without a default it has to be given."""
    more = {} if default is None else {"default": default}
    return field(metadata={"low": low, "high": high}, **more)


def choice(default: str, *others: str) -> Any:
    """A field that holds one of these words."""
    return field(default=default, metadata={"choices": (default, *others)})


def read_table(kind: type[Table], values: Any, where: str) -> Table:
    """Return the dataclass ``kind`` filled from ``values``; ``where`` names the table in messages.

    Raises ValueError naming a key that is missing, unknown, of another type or out of range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}, expected a table of settings.")
    known = {one.name: one for one in fields(kind) if one.init}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"{where} has no setting '{key}'.{hint} It takes {', '.join(sorted(known))}."
            )
    hints = get_type_hints(kind)
    filled = {}
    for name, one in known.items():
        if name in values:
            filled[name] = checked(values[name], hints[name], one, f"{where} {name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{where} lacks the setting '{name}', which has no default.")
    return kind(**filled)


def checked(value: Any, hint: Any, one: Field, where: str) -> Any:
    """Return ``value`` as the field wants it, or raise ValueError."""
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is {value!r}, expected a list.")
        inner = get_args(hint)[0]
        return tuple(checked(each, inner, one, where) for each in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} is {value!r}, expected {WORDS[hint]}.")
    choices = one.metadata.get("choices")
    if choices and value not in choices:
        raise ValueError(f"{where} is '{value}', expected one of {', '.join(choices)}.")
    low, high = one.metadata.get("low", -math.inf), one.metadata.get("high", math.inf)
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise ValueError(f"{where} is {value}, expected a number from {low:g} to {high:g}.")
    return value
