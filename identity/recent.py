"""The last results made from photos. They belong to the ID encoder and are freed with it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

KEPT = 32  # results; a list of photos makes one each
BYTES = 100 * 2**20  # of all results together; one photo's takes about 1 MB


@dataclass(frozen=True)
class Kept:
    """A result, its size in bytes, and the models besides the ID encoder that produced it."""

    value: Any
    size: int
    makers: tuple[weakref.ref, ...]

    def made_by(self, makers: tuple[Any, ...]) -> bool:
        """Whether these very objects made it: equal ones may hold another file by now."""
        return all(ref() is one for ref, one in zip(self.makers, makers, strict=True))


class Recent:
    """The last few results by key, the least used dropped first; no model is kept alive by it."""

    def __init__(self) -> None:
        self.results: OrderedDict[Hashable, Kept] = OrderedDict()

    def get(self, key: Hashable, makers: tuple[Any, ...]) -> Any | None:
        """Return what ``makers`` made for ``key``, or None."""
        found = self.results.get(key)
        if found is None or not found.made_by(makers):
            return None
        self.results.move_to_end(key)
        return found.value

    def put(self, key: Hashable, makers: tuple[Any, ...], value: Any, size: int) -> None:
        """Keep ``value`` of ``size`` bytes; the newest stays, however large it is."""
        gone = [k for k, kept in self.results.items() if any(ref() is None for ref in kept.makers)]
        for one in (*gone, key):
            self.results.pop(one, None)
        self.results[key] = Kept(value, size, tuple(weakref.ref(one) for one in makers))
        while len(self.results) > 1 and (len(self.results) > KEPT or self.size > BYTES):
            self.results.popitem(last=False)

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(kept.size for kept in self.results.values())
