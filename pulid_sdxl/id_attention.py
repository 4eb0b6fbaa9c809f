"""The identity attention of SDXL: the authors' formula, and the form that sampling uses.

In every cross-attention (attn2) of the UNet the ID tokens are attended to with the layer's own q,
and what comes out is added to the layer's own attention ``out``, before its ``to_out``:

    out + weight * (id - g * P)      id = softmax(q kᵀ / √d) v      P = out * Σ(out * id) / Σ(out²)

with k, v from the ID tokens and ``num_zero`` zero tokens beside them, the sums over the image
tokens, and g = 0 ("none"), 1 ("ortho"), or 1 - a ("ortho_v2"), where a is what a token's attention
gives to the first five ID tokens. Its scores are not divided by √d there.

Two things make it cheap. k and v do not depend on the image, so they are made once, before
sampling. A zero token has the score 0 and the value 0: Z of them add Z to the softmax's
denominator, and need not exist.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

PROJECTIONS = ("ortho_v2", "ortho", "none")
FIRST = 5  # ID tokens whose attention spares the image from ortho_v2's projection


class IDAttention(nn.Module):
    """The layer as the authors define it (IDAttnProcessor2_0), differentiable.

    dim C is the attention layer's width, token_dim the ID tokens'.
    """

    def __init__(self, dim: int, token_dim: int, **where: Any):
        super().__init__()
        self.id_to_k = nn.Linear(token_dim, dim, bias=False, **where)
        self.id_to_v = nn.Linear(token_dim, dim, bias=False, **where)

    def forward(
        self,
        q: Tensor,
        out: Tensor,
        id_tokens: Tensor,
        heads: int,
        num_zero: int,
        projection: str,
        weight: float = 1.0,
    ) -> Tensor:
        """q, out [B, N, C], id_tokens [B, T, token_dim] -> out with the identity [B, N, C]."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)

        tokens = torch.nn.functional.pad(id_tokens, (0, 0, 0, num_zero))
        k, v = split(self.id_to_k(tokens).to(q)), split(self.id_to_v(tokens).to(q))
        scores = split(q) @ k.transpose(-2, -1)  # [B, heads, N, T + Z]
        p = (scores / math.sqrt(k.shape[-1])).softmax(-1)
        found = (p @ v).transpose(1, 2).flatten(2)
        if projection == "none":
            return out + weight * found
        wide = torch.promote_types(out.dtype, torch.float32)
        out_, found = out.to(wide), found.to(wide)
        share = (out_ * found).sum(1, keepdim=True) / out_.square().sum(1, keepdim=True)
        projected = out_ * share
        if projection == "ortho_v2":
            a = scores.softmax(-1).mean(1)[..., :FIRST].sum(-1, keepdim=True)
            projected = (1 - a.to(wide)) * projected
        return (out_ + weight * (found - projected)).to(out.dtype)


class KeysValues(nn.Module):
    """k and v of one layer's ID tokens, held by the host like a layer's weights."""

    def __init__(self, k: Tensor, v: Tensor):
        """k, v [T, C]."""
        super().__init__()
        both = torch.cat((k, v)).contiguous()
        self.linear = comfy.ops.manual_cast.Linear(
            both.shape[1], both.shape[0], bias=False, device="meta", dtype=both.dtype
        )
        self.linear.load_state_dict({"weight": both}, assign=True)

    def copied(self, device: torch.device) -> KeysValues:
        """Return the same with tensors of its own on ``device``."""
        return KeysValues(*self.linear.weight.detach().to(device, copy=True).chunk(2))

    def forward(self, q: Tensor, heads: int, num_zero: int, spares: bool) -> tuple[Tensor, Tensor]:
        """q [B, N, C] -> id [B, N, C] and a [B, N, 1], both float32; a is 1 if not ``spares``.

        In float32, since the scores of ``a`` are eight times those of a common attention.
        """
        weight, bias, stream = comfy.ops.cast_bias_weight(self.linear, q, offloadable=True)
        k, v = weight.float().chunk(2)
        comfy.ops.uncast_bias_weight(self.linear, weight, bias, stream)
        rows, tokens, _ = q.shape
        # heads first, rows and image tokens together: strides a matrix product takes as they are
        by_head = q.float().reshape(rows * tokens, heads, -1).transpose(0, 1)  # [h, B * N, d]
        k = k.unflatten(-1, (heads, -1)).permute(1, 2, 0)  # [h, d, T]
        v = v.unflatten(-1, (heads, -1)).transpose(0, 1)  # [h, T, d]
        scores = by_head @ k
        p = soft(scores / math.sqrt(k.shape[1]), num_zero)
        found = (p @ v).transpose(0, 1).reshape(rows, tokens, -1)
        if not spares:
            return found, torch.ones((), device=q.device)
        a = soft(scores, num_zero)[..., :FIRST].sum(-1).mean(0)
        return found, a.reshape(rows, tokens, 1)


def soft(scores: Tensor, num_zero: int) -> Tensor:
    """scores [..., T] -> softmax over them and ``num_zero`` further scores of 0, without those."""
    if not num_zero:
        return scores.softmax(-1)
    total = scores.logsumexp(-1, keepdim=True)
    return scores.softmax(-1) * torch.sigmoid(total - math.log(num_zero))


def identity_term(
    layer: KeysValues, q: Tensor, out: Tensor, heads: int, num_zero: int, projection: str
) -> Tensor:
    """Return what is added to ``out`` at weight 1: q, out [B, N, C] -> [B, N, C] in float32."""
    found, a = layer(q, heads, num_zero, projection == "ortho_v2")
    if projection == "none":
        return found
    length = torch.linalg.vector_norm(out, dim=1, keepdim=True, dtype=torch.float32)
    # a text context of zeros makes out 0 everywhere: then there is nothing to project on
    least = torch.finfo(torch.float32).tiny
    share = (out * found).sum(1, keepdim=True) / length.square().clamp_min(least)
    projected = out * share
    if projection == "ortho":
        return found - projected
    return torch.addcmul(found, projected, a - 1)
