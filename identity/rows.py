"""What one sampling run knows, and what acts in one of its forwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .window import OpenWindow


@dataclass
class Run:
    """What one sampling run knows: windows in its sigmas, masks already resized, what happened."""

    windows: tuple[OpenWindow, ...]
    latent: tuple[int, int] | None = None  # height and width of the whole picture's latent
    # by a cond's uuid: is it a negative prompt, and which area (h, w, top, left) does it paint
    negative: dict[Any, bool | None] = field(default_factory=dict)
    areas: dict[Any, tuple] = field(default_factory=dict)
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    forwards: int = 0  # model calls in which an identity was to act
    inserted: bool = False  # a block has added one


@dataclass
class Call:
    """What acts in one forward; it travels as a keyword argument, so torch.compile guards it.

    (torch.compile as ComfyUI uses it guards nothing inside ``transformer_options``: what stands
    there when the graph is made would act, or not act, for ever.)
    """

    run: Run
    tokens: int  # image tokens of the picture itself, without Kontext's references
    # per run of batch rows of one kind: the rows, and per term its layers, gains in double blocks
    # and gains in single blocks
    parts: list[tuple[slice, list[tuple[nn.ModuleList, list, list]]]]


@dataclass(frozen=True)
class Part:
    """A stretch of the batch's rows that get the same."""

    rows: slice
    batch: int  # pictures made at once: row r belongs to picture r mod batch
    unconditional: bool
    area: tuple | None  # (h, w, top, left) of the latent that these rows paint, None for all


def learn_conds(run: Run, negative: bool, conds: Sequence[dict]) -> None:
    """Remember whose prompt a cond is and which area it paints."""
    for cond in conds:
        uuid = cond.get("uuid")
        # the host copies a cond to the other side for areas: then the row's index has to tell
        if run.negative.setdefault(uuid, negative) != negative:
            run.negative[uuid] = None
        if "area" in cond:
            run.areas[uuid] = tuple(cond["area"])


def batch_parts(total: int, options: dict, run: Run) -> Iterable[Part]:
    """Yield the stretches of a batch of ``total`` rows."""
    indices = options.get("cond_or_uncond") or [0]
    uuids = options.get("uuids") or [None] * len(indices)
    kinds = []
    for index, uuid in zip(indices, uuids, strict=False):
        known = run.negative.get(uuid)
        kinds.append((index == 1 if known is None else known, run.areas.get(uuid)))
    batch = total // len(kinds)
    first = 0
    for i, kind in enumerate(kinds):
        if i + 1 == len(kinds) or kinds[i + 1] != kind:
            yield Part(slice(first * batch, (i + 1) * batch), batch, *kind)
            first = i + 1
