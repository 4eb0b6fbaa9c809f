"""Which rows of a model call's batch belong to which prompt.

The host runs several prompts in one call: the batch is one chunk of rows for each entry of
``cond_or_uncond``, and a chunk holds the pictures that are made at once. Others change that: tiles
repeat the whole batch, so rows / entries is not the number of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Area = tuple[int, int, int, int]  # height, width, top, left, in the latent


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of the batch that get the same identities."""

    rows: slice
    pictures: int  # row r belongs to picture r mod pictures
    unconditional: bool  # of a negative prompt
    area: Area | None  # the part of the picture that these rows paint, None for all of it


@dataclass
class Prompts:
    """What a sampling run knows of its prompts, by the uuid that the host gives each."""

    negative: dict[Any, bool | None] = field(default_factory=dict)
    areas: dict[Any, Area] = field(default_factory=dict)

    def learn(self, negative: bool, conds: Sequence[Mapping[str, Any]]) -> None:
        """Remember whose prompt each cond is and which area it paints."""
        for cond in conds:
            uuid = cond.get("uuid")
            # the host copies a cond to the other side for areas: then the row's index has to tell
            if self.negative.setdefault(uuid, negative) != negative:
                self.negative[uuid] = None
            if "area" in cond:
                self.areas[uuid] = tuple(cond["area"])

    def rows(self, total: int, pictures: int | None, options: Mapping[str, Any]) -> Iterator[Rows]:
        """Yield the stretches of a batch of ``total`` rows.

        ``pictures`` is how many the run makes at once, None if unknown; ``options`` are the call's
        transformer_options. The uuid tells more than cond_or_uncond, whose index is 0 for a
        negative prompt that is called alone.
        """
        indices = options.get("cond_or_uncond") or [0]
        uuids = options.get("uuids") or [None] * len(indices)
        kinds = []
        for index, uuid in zip(indices, uuids, strict=False):
            known = self.negative.get(uuid)
            kinds.append((index == 1 if known is None else known, self.areas.get(uuid)))
        if not pictures or total % (pictures * len(kinds)):
            pictures = max(1, total // len(kinds))
        chunks = kinds * max(1, total // (pictures * len(kinds)))
        first = 0
        for i, kind in enumerate(chunks):
            if i + 1 == len(chunks) or chunks[i + 1] != kind:
                yield Rows(slice(first * pictures, (i + 1) * pictures), pictures, *kind)
                first = i + 1
