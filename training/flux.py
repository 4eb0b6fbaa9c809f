"""FLUX.1, Chroma and FLUX.2 in training: identity by the true formula, features for alignment.

Identity enters by the same ``IdentityBlock`` as in sampling; only the layers are others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..identity.run import SamplingRun
from ..pulid_flux.blocks import FluxForward, IdentityBlock, block_layers
from ..pulid_flux.cross_attention import CrossAttention
from .base import Base
from .samples import BLOCKS, Features


@dataclass(frozen=True)
class TrainedLayer:
    """A layer as IdentityBlock calls it: the authors' formula, whose weights have gradients."""

    layer: CrossAttention
    tokens: Tensor  # [B, T, C]
    dtype: torch.dtype  # it computes in

    def __call__(self, x: Tensor, gain: Tensor, img: Tensor, out: Tensor | None = None) -> Tensor:
        """Return img [B, N, D] plus the identity, written to ``out`` where given."""
        plain = {"use_reentrant": False, "preserve_rng_state": False}
        added = checkpoint(self.formula, self.tokens, img, **plain)
        total = torch.addcmul(img, added, gain.to(img))
        return total if out is None else out.copy_(total)

    def formula(self, tokens: Tensor, img: Tensor) -> Tensor:
        narrow = self.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(img.device.type, self.dtype if narrow else None, enabled=narrow):
            return self.layer(tokens, img.to(self.layer.to_q.weight.dtype)).to(img.dtype)


@dataclass(frozen=True)
class FluxIdentity:
    """ID tokens and the layers that show them to FLUX, for one forward or several.

    ``gain`` is the weight, [] or for each image token [B, N, 1].
    """

    layers: Sequence[TrainedLayer]
    double_layers: int | None
    gain: Tensor


@dataclass(frozen=True)
class WatchedBlock:
    """A block of one forward whose inputs are kept: Q of the image's tokens, K of the text's."""

    features: Features
    image_tokens: int  # of the picture itself, without references
    before: Callable | None

    def __call__(self, args: dict, extra: dict) -> dict:
        img, start = args["img"], 0
        if "txt" in args:
            txt = args["txt"]
        else:  # a single block: text tokens come first
            start = args["transformer_options"]["img_slice"][0]
            txt = img[:, :start]
        self.features.record(img[:, start : start + self.image_tokens][:, None], txt[:, None])
        return extra["original_block"](args) if self.before is None else self.before(args, extra)


@dataclass(frozen=True)
class WatchedAttention:
    """An ``attn1_patch`` that keeps each attention's queries of the image and keys of the text."""

    features: Features
    image_tokens: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict, **_: Any) -> dict:
        """q, k, v [B, heads, text and image tokens, d], before the rotation by position."""
        start = extra_options["img_slice"][0]
        self.features.record(q[:, :, start : start + self.image_tokens], k[:, :, :start])
        return {}


class FluxBase(Base):
    """FLUX.1, Chroma or FLUX.2."""

    scheduler = "simple"
    features = BLOCKS

    def depths(self) -> tuple[int, int]:
        """Return the number of double and of single blocks."""
        return len(self.net.double_blocks), len(self.net.single_blocks)

    def patches(
        self, x: Tensor, own: dict, identity: FluxIdentity | None, features: Features | None
    ) -> dict:
        tokens = math.prod(-(-side // self.net.patch_size) for side in x.shape[-2:])
        replace, patches = own.get("patches_replace", {}), own.get("patches", {})
        dit = dict(replace.get("dit", {}))
        if features is not None and features.kind == BLOCKS:
            for name, count in zip(("double_block", "single_block"), self.depths(), strict=True):
                for key in ((name, index) for index in range(count)):
                    dit[key] = WatchedBlock(features, tokens, dit.get(key))
        elif features is not None:
            watched = [*patches.get("attn1_patch", []), WatchedAttention(features, tokens)]
            patches = {**patches, "attn1_patch": watched}
        if identity is not None:
            forward = FluxForward(run=SamplingRun(()), image_tokens=tokens)
            rows = slice(0, len(x))
            for name, index, number in block_layers(*self.depths(), identity.double_layers):
                acting = [(rows, [(identity.layers[number], identity.gain)])]
                single, before = name == "single_block", dit.get((name, index))
                dit[name, index] = IdentityBlock(forward, acting, single, before)
        return {"patches_replace": {**replace, "dit": dit}, "patches": patches}
