"""SDXL in training: identity by the true formula in its cross-attention, Q and K for alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..pulid_sdxl.id_attention import IDAttention
from ..pulid_sdxl.unet import attention_layers
from .base import Base
from .samples import QUERIES, Features


@dataclass(frozen=True)
class SDXLIdentity:
    """ID tokens and the layers that show them to SDXL's UNet, for one forward or several."""

    layers: Sequence[IDAttention]  # in the files' order
    tokens: Tensor  # [B, T, C]
    weight: float
    num_zero: int
    projection: str
    dtype: torch.dtype  # the layers compute in

    def add(self, number: int, q: Tensor, out: Tensor, heads: int) -> Tensor:
        """Return a layer's attention ``out`` [B, N, C] with the identity; q [B, N, C]."""
        plain = {"use_reentrant": False, "preserve_rng_state": False}
        layer = self.layers[number]

        def formula(q: Tensor, out: Tensor, tokens: Tensor) -> Tensor:
            narrow = self.dtype in (torch.bfloat16, torch.float16)
            with torch.autocast(q.device.type, self.dtype if narrow else None, enabled=narrow):
                return layer(q, out, tokens, heads, self.num_zero, self.projection, self.weight)

        return checkpoint(formula, q, out, self.tokens, **plain).to(out.dtype)


@dataclass(frozen=True)
class CrossAttention2:
    """The attention of one attn2 in one forward: what was there, features kept, identity added."""

    number: int  # of the layer, in the files' order
    before: Callable | None
    identity: SDXLIdentity | None
    features: Features | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        """q [B, N, C], k, v [B, L, C] -> [B, N, C], before the layer's ``to_out``."""
        heads = extra["n_heads"]
        if self.features is not None:
            self.features.record(*(x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k)))
        if self.before is not None:
            out = self.before(q, k, v, extra)
        else:
            precision, options = extra.get("attn_precision"), {"transformer_options": extra}
            out = optimized_attention(q, k, v, heads, attn_precision=precision, **options)
        return out if self.identity is None else self.identity.add(self.number, q, out, heads)


class SDXLBase(Base):
    """SDXL and every model of its UNet."""

    scheduler = "sgm_uniform"
    features = QUERIES  # the text's width is another one, so blocks' inputs cannot be compared

    def patches(
        self, x: Tensor, own: dict, identity: SDXLIdentity | None, features: Features | None
    ) -> dict:
        if features is not None and features.kind != QUERIES:
            features = None
        replace = own.get("patches_replace", {})
        attn2 = dict(replace.get("attn2", {}))
        keys = [layer.key for layer in attention_layers(self.net)]
        found = [attn2.get(key, attn2.get(key[:2])) for key in keys]
        for number, (key, before) in enumerate(zip(keys, found, strict=True)):
            attn2[key] = CrossAttention2(number, before, identity, features)
        return {"patches_replace": {**replace, "attn2": attn2}}
