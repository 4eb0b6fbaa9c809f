"""The ID encoder ("IDFormer"): face features become ID tokens.

After the authors' description and released weights (arXiv 2404.16022, "PuLID for FLUX").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

HEAD_DIM = 64
SCALES = 5  # hidden states taken from the vision tower


class Attention(nn.Module):
    """Latents look at themselves and at the context (a Perceiver resampler's layer)."""

    def __init__(self, dim: int, inner: int, operations: Any, **where: Any):
        super().__init__()
        self.norm1 = operations.LayerNorm(dim, **where)
        self.norm2 = operations.LayerNorm(dim, **where)
        self.to_q = operations.Linear(dim, inner, bias=False, **where)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **where)
        self.to_out = operations.Linear(inner, dim, bias=False, **where)

    def forward(self, context: Tensor, latents: Tensor) -> Tensor:
        """context [B, S, dim], latents [B, Q, dim] -> [B, Q, dim]."""
        context, latents = self.norm1(context), self.norm2(latents)
        q = split_heads(self.to_q(latents))
        k, v = map(split_heads, self.to_kv(torch.cat((context, latents), 1)).chunk(2, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(HEAD_DIM)
        out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v  # [B, heads, Q, 64]
        return self.to_out(out.transpose(1, 2).flatten(2))


class IDEncoder(nn.Module):
    """Face vectors and vision-tower states become ID tokens; sizes come from ``sizes``."""

    def __init__(self, sizes: Mapping[str, torch.Size], operations: Any, **where: Any):
        super().__init__()
        _, self.queries, dim = sizes["latents"]
        self.latents = nn.Parameter(torch.empty(sizes["latents"], **where))
        self.proj_out = nn.Parameter(torch.empty(sizes["proj_out"], **where))
        linear, norm = operations.Linear, operations.LayerNorm
        self.layers = nn.ModuleList()
        for i in range(count(sizes, "layers")):
            inner = sizes[f"layers.{i}.0.to_q.weight"][0]
            hidden = sizes[f"layers.{i}.1.1.weight"][0]
            feed_forward = nn.Sequential(
                norm(dim, **where),
                linear(dim, hidden, bias=False, **where),
                nn.GELU(),
                linear(hidden, dim, bias=False, **where),
            )
            attention = Attention(dim, inner, operations, **where)
            self.layers.append(nn.ModuleList([attention, feed_forward]))

        def mapping(name: str) -> nn.Sequential:
            """Return Linear, LayerNorm, LeakyReLU twice and a last Linear."""
            widths = [sizes[f"{name}.{k}.weight"] for k in (0, 3, 6)]
            parts: list[nn.Module] = []
            for out, width in widths[:2]:
                parts += [linear(width, out, **where), norm(out, **where), nn.LeakyReLU()]
            return nn.Sequential(*parts, linear(widths[2][1], widths[2][0], **where))

        for scale in range(SCALES):
            setattr(self, f"mapping_{scale}", mapping(f"mapping_{scale}"))
        self.id_embedding_mapping = mapping("id_embedding_mapping")

    @property
    def id_cond_width(self) -> int:
        """Width of an id_cond vector: the face vector and the pooled vision vector."""
        return self.id_embedding_mapping[0].in_features

    @property
    def vit_width(self) -> int:
        """Width of the vision tower's hidden states."""
        return self.mapping_0[0].in_features

    def forward(self, id_cond: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """id_cond [B, M, 1280] of M photos, five hidden states [B, S, 1024] -> [B, 32, 2048].

        The tokens of all photos of one person stand side by side on the token axis.
        """
        batch, dim = id_cond.shape[0], self.latents.shape[-1]
        faces = self.id_embedding_mapping(id_cond).reshape(batch, -1, dim)
        latents = comfy.ops.cast_to_input(self.latents, faces).expand(batch, -1, -1)
        latents = torch.cat((latents, faces), 1)
        per_scale = len(self.layers) // SCALES
        for scale, states in enumerate(hidden):
            context = torch.cat((faces, getattr(self, f"mapping_{scale}")(states)), 1)
            for attention, feed_forward in self.layers[scale * per_scale : (scale + 1) * per_scale]:
                latents = attention(context, latents) + latents
                latents = feed_forward(latents) + latents
        return latents[:, : self.queries] @ comfy.ops.cast_to_input(self.proj_out, latents)


def split_heads(x: Tensor) -> Tensor:
    """[B, S, heads * 64] -> [B, heads, S, 64]."""
    return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)


def count(keys: Mapping[str, Any], name: str) -> int:
    """Return how many numbered items ``name.0``, ``name.1``, … the keys speak of."""
    found = {int(k.split(".")[1]) for k in keys if k.startswith(f"{name}.")}
    return max(found, default=-1) + 1
