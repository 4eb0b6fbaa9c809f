"""The ID encoder ("IDFormer"): face features become ID tokens.

After the authors' description and released weights (arXiv 2404.16022, "PuLID for FLUX").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

HEAD_DIM = 64
SCALES = 5  # hidden states taken from the vision tower
NEEDS = f"but it needs a multiple of {SCALES} layers with heads of {HEAD_DIM} values"


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of an IDFormer; the defaults are those of the authors' released files."""

    dim: int = 1024
    inner: int = 1024  # heads * 64
    hidden: int = 4096  # of the feed-forward layers
    depth: int = 10  # layers, the same number for each scale
    queries: int = 32  # ID tokens
    face_tokens: int = 5  # tokens that a face vector becomes
    output: int = 2048  # width of the ID tokens
    id_cond: int = 1280  # face vector and pooled vision vector
    vit: int = 1024  # the vision tower's hidden states
    mapping: int = 1024  # the hidden width of the mappings


class Attention(nn.Module):
    """Latents look at themselves and at the context (a Perceiver resampler's layer)."""

    def __init__(self, dim: int, inner: int, operations: Any = nn, **where: Any):
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
        wide = torch.promote_types(scores.dtype, torch.float32)
        out = scores.softmax(-1, dtype=wide).to(v.dtype) @ v  # [B, heads, Q, 64]
        return self.to_out(out.transpose(1, 2).flatten(2))


class IDFormer(nn.Module):
    """Face vectors and vision-tower states become ID tokens.

    ``operations`` makes the layers (torch.nn, or the host's operations); ``where`` is their device
    and dtype.
    """

    def __init__(self, sizes: Sizes, operations: Any = nn, **where: Any):
        super().__init__()
        self.sizes = sizes
        linear, norm, dim = operations.Linear, operations.LayerNorm, sizes.dim
        scale = dim**-0.5
        latents = torch.randn(1, sizes.queries, dim, **where) * scale
        self.latents = nn.Parameter(latents)
        self.proj_out = nn.Parameter(torch.randn(dim, sizes.output, **where) * scale)
        self.layers = nn.ModuleList()
        for _ in range(sizes.depth):
            feed_forward = nn.Sequential(
                norm(dim, **where),
                linear(dim, sizes.hidden, bias=False, **where),
                nn.GELU(),
                linear(sizes.hidden, dim, bias=False, **where),
            )
            attention = Attention(dim, sizes.inner, operations, **where)
            self.layers.append(nn.ModuleList([attention, feed_forward]))

        hidden = sizes.mapping
        for i in range(SCALES):
            setattr(self, f"mapping_{i}", mlp(sizes.vit, hidden, dim, operations, **where))
        faces = sizes.face_tokens * dim
        self.id_embedding_mapping = mlp(sizes.id_cond, hidden, faces, operations, **where)

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
        return latents[:, : self.sizes.queries] @ comfy.ops.cast_to_input(self.proj_out, latents)


def mlp(inputs: int, hidden: int, outputs: int, operations: Any, **where: Any) -> nn.Sequential:
    """Return Linear, LayerNorm, LeakyReLU twice and a last Linear: [..., inputs] -> [..., outputs].

    The ID encoders of all versions are made of these.
    """
    parts: list[nn.Module] = []
    for width in (inputs, hidden):
        parts += [
            operations.Linear(width, hidden, **where),
            operations.LayerNorm(hidden, **where),
            nn.LeakyReLU(),
        ]
    return nn.Sequential(*parts, operations.Linear(hidden, outputs, **where))


def split_heads(x: Tensor) -> Tensor:
    """[B, S, heads * 64] -> [B, heads, S, 64]."""
    return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)


def read_sizes(shapes: Mapping[str, torch.Size]) -> Sizes:
    """Return the sizes of the IDFormer whose tensors have these shapes.

    Raises KeyError naming the key that is missing, or has a shape that no IDFormer has.
    """

    def axes(key: str, count: int) -> torch.Size:
        if len(shapes[key]) != count:
            raise KeyError(key)
        return shapes[key]

    _, queries, dim = axes("latents", 3)
    tokens, mapping = axes("id_embedding_mapping.6.weight", 2)
    numbers = [int(k.split(".")[1]) for k in shapes if k.startswith("layers.")]
    sizes = Sizes(
        dim=dim,
        inner=axes("layers.0.0.to_q.weight", 2)[0],
        hidden=axes("layers.0.1.1.weight", 2)[0],
        depth=max(numbers) + 1,
        queries=queries,
        face_tokens=tokens // dim,
        output=axes("proj_out", 2)[1],
        id_cond=axes("id_embedding_mapping.0.weight", 2)[1],
        vit=axes("mapping_0.0.weight", 2)[1],
        mapping=mapping,
    )
    for key, size, unit in (
        ("layers.0.0.to_q.weight", sizes.inner, HEAD_DIM),
        ("id_embedding_mapping.6.weight", tokens, dim),
        (f"layers.{sizes.depth - 1}.0.to_q.weight", sizes.depth, SCALES),
    ):
        if size == 0 or size % unit:
            raise KeyError(key)
    return sizes
