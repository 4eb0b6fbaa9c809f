"""The identity cross-attention, as the authors write it and in the two forms used for sampling.

A layer adds ``weight * to_out(softmax(q kᵀ / √d) v)`` to the image tokens, with q from the image
and k, v from the ID tokens. Since the identity is fixed while sampling, k and v are constants and
the linear maps around them can be multiplied out before sampling starts:

    folded   scores = x̂ A + b,  out = softmax(scores) B       A [D, heads·T], B [heads·T, D]
    plain    q = x̂ Q + p,       out = softmax(q kᵀ) v O       Q [D, inner],   O [inner, D]

x̂ is the image token after LayerNorm without its affine part, which goes into A, b, Q and p. Both
are the same function. The folded form costs 2·D·heads multiply-adds per image token and ID token;
the plain one 2·inner per ID token after 2·D·inner once, shared by all identities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

HEAD_DIM = 128


@dataclass(frozen=True)
class CrossAttention:
    """One layer's weights as they stand in the file (on the CPU, in the file's dtype).

    dim D is FLUX's width, kv_dim C the ID tokens' width, inner = heads * 128.
    """

    norm1_weight: Tensor  # [C]
    norm1_bias: Tensor  # [C]
    norm2_weight: Tensor  # [D]
    norm2_bias: Tensor  # [D]
    to_q: Tensor  # [inner, D]
    to_kv: Tensor  # [2 * inner, C]
    to_out: Tensor  # [D, inner]

    @property
    def heads(self) -> int:
        return self.to_q.shape[0] // HEAD_DIM

    def to(self, device: torch.device, dtype: torch.dtype) -> CrossAttention:
        """Return a copy elsewhere; layers are moved one at a time, so little memory is needed."""
        return CrossAttention(**{k: v.to(device, dtype) for k, v in vars(self).items()})

    def keys_values(self, id_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """id_tokens [B, T, C] -> k, v [B, T, inner]."""
        x = layer_norm(id_tokens, id_tokens.shape[-1:], self.norm1_weight, self.norm1_bias)
        k, v = linear(x, self.to_kv).chunk(2, -1)
        return k, v

    def queries(self) -> tuple[Tensor, Tensor]:
        """Return Q [inner, D] and p [inner] with q = x̂ Qᵀ + p, norm2's affine part included."""
        return self.to_q * self.norm2_weight, self.to_q @ self.norm2_bias

    def fold(self, id_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """id_tokens [1, T, C] -> A [heads*T, D], b [heads*T], B [D, heads*T], in float32."""
        k, v = (x[0].unflatten(-1, (-1, HEAD_DIM)) for x in self.keys_values(id_tokens))
        q, p = self.queries()
        q, p = q.unflatten(0, (-1, HEAD_DIM)), p.unflatten(0, (-1, HEAD_DIM))
        out = self.to_out.unflatten(-1, (-1, HEAD_DIM))  # [D, heads, 128]
        scale = 1 / math.sqrt(HEAD_DIM)
        a = torch.einsum("thd,hdc->htc", k, q).flatten(0, 1) * scale
        b = torch.einsum("thd,hd->ht", k, p).flatten() * scale
        return a, b, torch.einsum("thd,chd->cht", v, out).flatten(1)


class FoldedLayer(nn.Module):
    """One layer for one identity, multiplied out."""

    def __init__(self, a: Tensor, b: Tensor, values: Tensor, heads: int, operations: Any):
        super().__init__()
        self.heads = heads
        where = {"device": "meta", "dtype": a.dtype}
        self.scores = operations.Linear(a.shape[1], a.shape[0], **where)
        self.values = operations.Linear(a.shape[0], a.shape[1], bias=False, **where)
        state_dict = {"scores.weight": a, "scores.bias": b, "values.weight": values}
        self.load_state_dict(state_dict, assign=True)

    def forward(self, x: Tensor, gains: Sequence[Tensor | None]) -> Tensor:
        """x̂ [B, N, D], one gain broadcastable to [B, N, 1] -> [B, N, D]."""
        scores = self.scores(x).unflatten(-1, (self.heads, -1))
        p = scores.softmax(-1, dtype=torch.float32).flatten(-2)  # float32 as in the authors' code
        return self.values((p * gains[0]).to(x.dtype))


class PlainLayer(nn.Module):
    """One layer for several identities: they share the maps to q and from the attention."""

    def __init__(
        self,
        q: Tensor,
        p: Tensor,
        out: Tensor,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        operations: Any,
    ):
        super().__init__()
        self.heads = q.shape[0] // HEAD_DIM
        where = {"device": "meta", "dtype": q.dtype}
        self.to_q = operations.Linear(q.shape[1], q.shape[0], **where)
        self.to_out = operations.Linear(out.shape[1], out.shape[0], bias=False, **where)
        state_dict = {"to_q.weight": q, "to_q.bias": p, "to_out.weight": out}
        self.load_state_dict(state_dict, assign=True)
        self.identities = nn.ModuleList(KeysValues(k, v) for k, v in keys_values)

    def forward(self, x: Tensor, gains: Sequence[Tensor | None]) -> Tensor:
        """x̂ [B, N, D], one gain per identity (None: not now) -> [B, N, D]."""
        q, total = self.to_q(x), None
        for identity, gain in zip(self.identities, gains, strict=True):
            if gain is not None:
                part = identity(q, self.heads) * gain
                total = part if total is None else total + part
        return self.to_out(total.to(x.dtype))


class KeysValues(nn.Module):
    """The keys and values of one identity's tokens in one layer."""

    def __init__(self, k: Tensor, v: Tensor):
        super().__init__()
        self.k = nn.Parameter(k, requires_grad=False)  # [1, T, inner]
        self.v = nn.Parameter(v, requires_grad=False)

    def forward(self, q: Tensor, heads: int) -> Tensor:
        """q [B, N, inner] -> attention over this identity's tokens [B, N, inner]."""
        # torch's own attention: the host may have chosen one that rounds q and k to 8 bits
        q, k, v = (x.to(q).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, self.k, self.v))
        k, v = (x.expand(q.shape[0], -1, -1, -1) for x in (k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def folded_cost(dim: int, heads: int, tokens: Sequence[int]) -> int:
    """Multiply-adds per image token for identities of ``tokens`` ID tokens, folded."""
    return 2 * dim * heads * sum(tokens)


def plain_cost(dim: int, heads: int, tokens: Sequence[int]) -> int:
    """Multiply-adds per image token for the same identities with shared to_q and to_out."""
    inner = heads * HEAD_DIM
    return 2 * dim * inner + 2 * inner * sum(tokens)
