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
Kind = tuple[bool, Area | None]  # of a negative prompt; the area that it paints
UNKNOWN_ROWS = (
    "PuLID: another node has changed the batch inside the model's layers ({found} rows instead of "
    "{total}), and it cannot be told which of them belong to the negative prompt, so the identity "
    "might act on the wrong ones. Bypass the node that repeats or splits prompts inside the model."
)


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
        yield from stretches(*self.chunks(total, pictures, options))

    def rows_in_layer(
        self, found: int, total: int, pictures: int | None, options: Mapping[str, Any]
    ) -> Iterator[Rows]:
        """Yield the stretches of a layer that has ``found`` rows where its call has ``total``.

        Packs that give parts of the picture prompts of their own inside one call ("attention
        couple") split a layer's rows into as many pieces as cond_or_uncond has entries, and repeat
        each piece whose entry is not 1, once for each part. With tiles, a piece has rows of both
        kinds. Raises RuntimeError where the rows cannot be told apart.
        """
        chunks, pictures = self.chunks(total, pictures, options)
        indices = (options.get("cond_or_uncond") or [0])[: len(self.kinds(options))]
        piece = len(chunks) // len(indices)
        single = indices.count(1)
        rows = piece * pictures
        parts, rest = divmod(found - single * rows, max(1, len(indices) - single) * rows)
        repeats = [1 if index == 1 else parts for index in indices]
        order = [i for i, times in zip(indices, repeats, strict=True) for _ in range(times)]
        told = options.get("cond_or_uncond_couple", order)  # some say what they did
        if rest or parts < 1 or single == len(indices) or list(told) != order:
            raise RuntimeError(UNKNOWN_ROWS.format(found=found, total=total))
        pieces = [chunks[i * piece : (i + 1) * piece] for i in range(len(indices))]
        repeated = [p * times for p, times in zip(pieces, repeats, strict=True)]
        yield from stretches(sum(repeated, []), pictures)

    def chunks(
        self, total: int, pictures: int | None, options: Mapping[str, Any]
    ) -> tuple[list[Kind], int]:
        """Return what each chunk of a call's batch is, and how many rows a chunk has."""
        kinds = self.kinds(options)
        if not pictures or total % (pictures * len(kinds)):
            pictures = max(1, total // len(kinds))
        return kinds * max(1, total // (pictures * len(kinds))), pictures

    def kinds(self, options: Mapping[str, Any]) -> list[Kind]:
        """Return what each entry of the call's cond_or_uncond is."""
        indices = options.get("cond_or_uncond") or [0]
        uuids = options.get("uuids") or [None] * len(indices)
        found = []
        for index, uuid in zip(indices, uuids, strict=False):
            known = self.negative.get(uuid)
            found.append((index == 1 if known is None else known, self.areas.get(uuid)))
        return found


def stretches(chunks: Sequence[Kind], pictures: int) -> Iterator[Rows]:
    """Yield chunks of ``pictures`` rows, those of one kind together."""
    first = 0
    for i, kind in enumerate(chunks):
        if i + 1 == len(chunks) or chunks[i + 1] != kind:
            yield Rows(slice(first * pictures, (i + 1) * pictures), pictures, *kind)
            first = i + 1
