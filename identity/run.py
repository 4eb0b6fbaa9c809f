"""One use of an identity, and what one sampling run knows, for every model family."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from comfy.samplers import CFGGuider
from torch import Tensor

from .identity import Identity
from .masks import to_tokens
from .rows import Prompts, Rows
from .window import OpenWindow, Window

log = logging.getLogger(__name__)

DID_NOT_ACT = (
    "PuLID: identity {number} of {total} did not act in this run: none of the sampling steps falls "
    "within its window (start_at and end_at, or start_step and end_step), or its weight_curve is 0 "
    "in those that do."
)
MASK_IN_TILES = (
    "PuLID: identity {number} has a mask or region, but another node samples the image in "
    "tiles (latent {tile} of {whole}), so the mask covers each tile as a whole. Remove the mask "
    "and region, or the tiles."
)
LEAST_FACTOR = 1e-6  # a curve's zeros are rounded
UNCONDITIONAL = ("zero identity", "same identity", "none")


@dataclass(frozen=True, kw_only=True)
class IdentityUse:
    """One use of an identity in a model; each family adds ``prepare`` (see prepared.py)."""

    pulid: Any  # the loaded PuLID file
    identity: Identity
    weight: float
    window: Window
    mask: Tensor | None = None  # [M, H, W] in 0..1
    unconditional: str = UNCONDITIONAL[0]
    # called after each run with (steps in which it acted, steps, whether its mask was put in tiles)
    report: Callable[[int, int, bool], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError if a setting is NaN or infinite: the API lets NaN through any range."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in {**own, **vars(self.window)}.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}, expected a number.")

    def tokens(self, negative: bool) -> Tensor | None:
        """ID tokens [1, T, C] for the rows of a positive or negative prompt, None for nothing."""
        if not negative or self.unconditional == "same identity":
            return self.identity.id_tokens
        return None if self.unconditional == "none" else self.identity.uncond_id_tokens

    @property
    def never_acts(self) -> bool:
        """True if it changes nothing in any run."""
        empty = self.mask is not None and not self.mask.any()
        return self.identity.is_nobody or self.weight == 0 or self.window.never_opens or bool(empty)


@dataclass
class SamplingRun:
    """What one sampling run knows: windows in its sigmas, masks already resized, what happened."""

    windows: tuple[OpenWindow, ...]
    steps: tuple[float, ...] = ()  # the sigma of each
    pictures: int | None = None  # made at once
    latent: tuple[int, int] | None = None  # height and width of the whole picture's latent
    prompts: Prompts = field(default_factory=Prompts)
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    in_tiles: set[int] = field(default_factory=set)  # uses whose mask covers tiles, not the picture
    forwards: int = 0  # model calls in which an identity was to act
    inserted: bool = False  # a block has added one
    missed: set[float] = field(default_factory=set)  # sigmas of steps in which none did

    def weights(self, uses: Sequence[IdentityUse], options: Mapping[str, Any]) -> list[float]:
        """Return each use's weight in the forward with these transformer_options."""
        weights = [use.weight for use in uses]
        if all(window.always for window in self.windows):
            return weights  # no wait for the device
        sigma = float(options["sigmas"].flatten()[0])  # the only read from it
        return [w * o.factor(sigma) for w, o in zip(weights, self.windows, strict=True)]

    def mask(self, use: int, mask: Tensor, x: Tensor, rows: Rows, grid: tuple[int, int]) -> Tensor:
        """Return use number ``use``'s mask for each image token of these rows [rows, N, 1].

        ``x`` [B, C, H, W] is the call's latent, ``grid`` its image tokens' rows and columns. A
        forward that is not an area of the image (a tile of another pack) gets the whole mask.
        """
        size = tuple(x.shape[-2:])
        area = rows.area if self.latent and rows.area and rows.area[:2] == size else None
        first, last = rows.rows.start, rows.rows.stop
        key = (use, size, grid, area, first % rows.pictures, last - first, rows.pictures, x.device)
        if key not in self.masks:
            if self.latent and not area and size != self.latent:  # nobody tells which part it is
                text = MASK_IN_TILES.format(number=use + 1, tile=size, whole=self.latent)
                log.warning(text)
                self.in_tiles.add(use)
            tokens = to_tokens(mask, self.latent if area else size, grid, area)
            pictures = torch.arange(first, last) % rows.pictures
            self.masks[key] = tokens[pictures % len(tokens)].to(x.device)
        return self.masks[key]

    def mask_of(self, use: int, mask: Tensor, x: Tensor, rows: Rows) -> Tensor:
        """Return use number ``use``'s mask over the call's latent, [pictures, h, w].

        For models whose layers have grids of their own; [1, h, w] where pictures share one mask.
        """
        size = tuple(x.shape[-2:])
        shared = len(mask) == 1
        one = slice(0, 1 if shared else rows.pictures)
        every = Rows(one, one.stop, rows.unconditional, rows.area)
        return self.mask(use, mask, x, every, size).unflatten(1, size)[..., 0]


def start_run(
    uses: Sequence[IdentityUse], percent_to_sigma: Callable[[float], float], sigmas: Sequence[float]
) -> SamplingRun:
    """Return the state of a run over these sigmas."""
    windows = tuple(use.window.resolve(percent_to_sigma, sigmas) for use in uses)
    return SamplingRun(windows, tuple(sigmas[:-1]))


def report(run: SamplingRun, uses: Sequence[IdentityUse]) -> None:
    """Say after a run in how many of its steps each identity acted; in none is a warning."""
    for number, (use, window) in enumerate(zip(uses, run.windows, strict=True)):
        acted = sum(window.factor(sigma) > LEAST_FACTOR for sigma in run.steps)
        if not acted:
            log.warning(DID_NOT_ACT.format(number=number + 1, total=len(uses)))
        if use.report:
            use.report(acted, len(run.steps), number in run.in_tiles)


def runs_negative(guider: Any) -> bool:
    """Return whether a guider's run has rows of a negative prompt.

    At cfg 1 the host's own guider leaves them out, unless a patch asks for them.
    """
    if not any("negative" in name for name in getattr(guider, "conds", {"negative": None})):
        return False
    skips = type(guider).predict_noise is CFGGuider.predict_noise and math.isclose(guider.cfg, 1.0)
    return not skips or bool(guider.model_options.get("disable_cfg1_optimization", False))
