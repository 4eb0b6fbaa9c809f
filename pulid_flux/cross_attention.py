"""The identity cross-attention: the authors' formula, and the form that sampling uses.

A layer adds ``weight * to_out(softmax(q kᵀ / √d) v)`` to the image tokens, with q from the image
and k, v from the ID tokens. Since the identity is fixed while sampling, k and v are constants and
the linear maps around them are multiplied out before sampling starts:

    scores = x̂ A + b,  out = softmax(scores) B        A [D, heads·T], b [heads·T], B [heads·T, D]

x̂ is the image token after LayerNorm without its affine part, which goes into A and b. Both are the
same function; folded it costs 2·D·heads multiply-adds per image token and ID token, and no maps to
q and from the attention.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

HEAD_DIM = 128


class CrossAttention(nn.Module):
    """The layer as the authors define it (PerceiverAttentionCA), differentiable.

    dim D is FLUX's width, kv_dim C the ID tokens' width.
    """

    def __init__(self, dim: int, kv_dim: int, heads: int, **where: Any):
        super().__init__()
        inner = heads * HEAD_DIM
        self.heads = heads
        self.norm1 = nn.LayerNorm(kv_dim, **where)
        self.norm2 = nn.LayerNorm(dim, **where)
        self.to_q = nn.Linear(dim, inner, bias=False, **where)
        self.to_kv = nn.Linear(kv_dim, 2 * inner, bias=False, **where)
        self.to_out = nn.Linear(inner, dim, bias=False, **where)

    def forward(self, id_tokens: Tensor, img: Tensor) -> Tensor:
        """id_tokens [B, T, C], img [B, N, D] -> what is added to img at weight 1, [B, N, D]."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)

        q = split(self.to_q(self.norm2(img)))
        k, v = map(split, self.to_kv(self.norm1(id_tokens)).chunk(2, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(HEAD_DIM)  # [B, heads, N, T]
        wide = torch.promote_types(scores.dtype, torch.float32)
        out = scores.softmax(-1, dtype=wide).to(v.dtype) @ v
        return self.to_out(out.transpose(1, 2).flatten(2))


class FoldingLayer:
    """A layer's weights on the device that folds, in float32: ``to_kv`` and so on are tensors."""

    def __init__(self, layer: CrossAttention, device: torch.device):
        # moved as they are and widened there: half the bytes go over
        weights = {k: v.to(device).float() for k, v in layer.state_dict().items()}
        self.norm1 = (weights["norm1.weight"], weights["norm1.bias"])
        self.to_kv = weights["to_kv.weight"]
        by_head = weights["to_q.weight"].unflatten(0, (-1, HEAD_DIM))  # [heads, 128, D]
        scale = 1 / math.sqrt(HEAD_DIM)
        self.q = by_head * weights["norm2.weight"] * scale
        self.p = by_head @ weights["norm2.bias"] * scale  # [heads, 128]
        self.out = weights["to_out.weight"].unflatten(-1, (-1, HEAD_DIM))  # [D, heads, 128]

    def fold(self, id_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """id_tokens [1, T, C] -> A [heads*T, D], b [heads*T], B [D, heads*T]."""
        x = layer_norm(id_tokens[0].float(), id_tokens.shape[-1:], *self.norm1)
        k, v = (half.unflatten(-1, (-1, HEAD_DIM)) for half in linear(x, self.to_kv).chunk(2, -1))
        a = torch.einsum("thd,hdc->htc", k, self.q).flatten(0, 1)
        b = torch.einsum("thd,hd->ht", k, self.p).flatten()
        return a, b, torch.einsum("thd,chd->cht", v, self.out).flatten(1)


class FoldedLayer(nn.Module):
    """One layer with the ID tokens multiplied in."""

    def __init__(self, a: Tensor, b: Tensor, values: Tensor, heads: int):
        super().__init__()
        self.heads = heads
        where = {"device": "meta", "dtype": a.dtype}
        operations = comfy.ops.manual_cast
        self.scores = operations.Linear(a.shape[1], a.shape[0], **where)
        self.values = operations.Linear(a.shape[0], a.shape[1], bias=False, **where)
        state_dict = {"scores.weight": a, "scores.bias": b, "values.weight": values}
        self.load_state_dict(state_dict, assign=True)

    def copied(self, device: torch.device) -> FoldedLayer:
        """Return the same layer with weights of its own on ``device``."""
        weights = (self.scores.weight, self.scores.bias, self.values.weight)
        return FoldedLayer(*(t.detach().to(device, copy=True) for t in weights), self.heads)

    def forward(self, x: Tensor, gain: Tensor, img: Tensor, out: Tensor | None = None) -> Tensor:
        """Return img plus the identity, written to ``out`` where given (``img`` itself, even).

        x, img, out [B, N, D], x being x̂ of img; gain broadcasts to [B, N, 1]. Adding in the last
        matrix product saves a pass over the tokens, and rounds once.
        """
        scores = self.scores(x).unflatten(-1, (self.heads, -1))
        p = scores.softmax(-1).flatten(-2) * gain  # summed in float32 inside, whatever the dtype
        weight, bias, stream = comfy.ops.cast_bias_weight(self.values, p, offloadable=True)
        values = weight.t()
        if out is None:
            out = torch.baddbmm(img, p, values.expand(len(p), -1, -1))
        else:
            for row in range(len(p)):  # contiguous, as a batch of rows within out is not
                if torch.is_grad_enabled():  # what is written in place has no gradient
                    out[row] = torch.addmm(img[row], p[row], values)
                else:
                    torch.addmm(img[row], p[row], values, out=out[row])
        comfy.ops.uncast_bias_weight(self.values, weight, bias, stream)
        return out
