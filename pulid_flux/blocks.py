"""FLUX's blocks with identity added to the picture's own tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from ..identity.hooks import Forward


@dataclass(frozen=True)
class Acting:
    """One set of ID tokens that acts on some rows of a forward.

    A gain is weight times mask, [rows, N, 1] or [] for all tokens, on the forward's device: as
    numbers they would make torch.compile start anew for each, and on the CPU keep it from CUDA
    graphs. None: not in blocks of that kind.
    """

    layers: nn.ModuleList
    double: Tensor | None
    single: Tensor | None


@dataclass(kw_only=True)
class FluxForward(Forward):
    """What acts in one forward of FLUX."""

    image_tokens: int  # of the picture itself, without Kontext's references
    text_tokens: int | None = None  # seen in a double block


LayerOnRows = tuple[slice, list[tuple[nn.Module, Tensor]]]


@dataclass(frozen=True, eq=False)  # torch 2.11's compiler hashes it before it has its fields
class IdentityBlock:
    """A block of one forward that adds the identity to what it returns."""

    forward: FluxForward
    acting: list[LayerOnRows]  # this block's layer and gain, by rows
    single: bool
    before: Callable | None  # what another pack, or another wrapper, put here

    def __call__(self, args: dict, extra: dict) -> dict:
        out = extra["original_block"](args) if self.before is None else self.before(args, extra)
        forward = self.forward
        start = 0
        if self.single:  # text tokens come first
            options = args.get("transformer_options") or extra.get("transformer_options") or {}
            # packs that run FLUX's blocks themselves may leave this out; a double block recorded it
            start = options["img_slice"][0] if "img_slice" in options else forward.text_tokens
        else:
            forward.text_tokens = out["txt"].shape[1]
        if not self.acting or start is None:
            return out
        forward.run.inserted = True
        return {**out, "img": add_identity(out["img"], start, forward.image_tokens, self.acting)}


def add_identity(img: Tensor, start: int, count: int, acting: list[LayerOnRows]) -> Tensor:
    """img [B, S, D] -> the same with identity added to tokens start … start + count - 1.

    A new tensor, since another pack may keep what a block returned. Each part of it is written
    once, by the layer that adds the identity or as a copy.
    """
    end = start + count
    whole = (start, end) == (0, img.shape[1]) and acting[0][0] == slice(0, img.shape[0])
    out = None if whole else torch.empty_like(img)
    untouched, done = [], 0
    for rows, layers in acting:
        source, target = img[rows, start:end], None if whole else out[rows, start:end]
        x = layer_norm(source, img.shape[-1:])
        for layer, gain in layers:
            source = layer(x, gain, source, target)
        if whole:
            return source
        untouched.append((slice(done, rows.start), slice(start, end)))
        done = rows.stop
    every = slice(0, len(img))
    untouched += [
        (slice(done, len(img)), slice(start, end)),
        (every, slice(0, start)),
        (every, slice(end, img.shape[1])),
    ]
    for rows, tokens in untouched:
        if rows.start < rows.stop and tokens.start < tokens.stop:
            out[rows, tokens] = img[rows, tokens]
    return out


def block_layers(
    doubles: int, singles: int, double_layers: int | None = None
) -> list[tuple[str, int, int]]:
    """Return (block name, block index, cross-attention layer) for a model of these depths.

    Every second double block and every fourth single block: 10 + 10 layers for FLUX.1's 19 and 38
    blocks. ``double_layers`` is how many of a file's layers were trained for double blocks: the
    single blocks' come after those, also in a pruned model that has fewer double blocks. None:
    after as many as this model has.
    """
    blocks = [("double_block", i, i // 2) for i in range(0, doubles, 2)]
    first = len(blocks) if double_layers is None else double_layers
    return blocks + [("single_block", i, first + i // 4) for i in range(0, singles, 4)]
