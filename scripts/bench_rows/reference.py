"""The authors' identity layer to measure against, and layers of the true size for both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import comfy.ops
import torch
from pulid_pack.pulid_flux.checkpoint import PulidModel
from pulid_pack.pulid_flux.cross_attention import (
    HEAD_DIM,
    CrossAttention,
    FoldedLayer,
    PlainLayer,
    folded_cost,
    plain_cost,
)
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

WIDTH, HEADS, TOKEN_WIDTH = 3072, 16, 2048
BLOCK = 1 << 20  # random numbers drawn for a tensor; a larger one repeats them


def authors_attention(layer: CrossAttention, id_tokens: Tensor, img: Tensor) -> Tensor:
    """id_tokens [B, T, C], img [B, N, D] -> [B, N, D], every step of the authors' layer each time.

    After the description in arXiv 2404.16022 and the released weights: both norms with their
    affine part, three linear maps, softmax in float32.
    """
    k, v = layer.keys_values(id_tokens)
    x = layer_norm(img, img.shape[-1:], layer.norm2_weight, layer.norm2_bias)
    q = linear(x, layer.to_q)
    q, k, v = (t.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for t in (q, k, v))
    scale = 1 / math.sqrt(math.sqrt(HEAD_DIM))  # on both sides, which keeps 16 bit in range
    scores = (q * scale) @ (k * scale).transpose(-2, -1)
    out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    return linear(out.transpose(1, 2).flatten(2), layer.to_out)


def filled(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return N(0, 1/fan_in) values; drawing few and repeating them makes gigabytes in no time."""
    count, fan_in = math.prod(shape), math.prod(shape[1:]) or 1
    noise = torch.randn(min(count, BLOCK), generator=torch.Generator().manual_seed(seed))
    noise = (noise / math.sqrt(fan_in)).to(dtype)
    return noise.repeat(-(-count // noise.numel()))[:count].view(*shape)


def true_layer(seed: int) -> CrossAttention:
    """Return one random layer of FLUX.1's and PuLID's true size, float32."""
    inner = HEADS * HEAD_DIM
    draw = torch.Generator().manual_seed(seed)
    norms = {
        f"norm{i}_{part}": torch.randn(width, generator=draw) * 0.1 + (part == "weight")
        for i, width in ((1, TOKEN_WIDTH), (2, WIDTH))
        for part in ("weight", "bias")
    }
    return CrossAttention(
        **norms,
        to_q=filled((inner, WIDTH), seed + 1),
        to_kv=filled((2 * inner, TOKEN_WIDTH), seed + 2),
        to_out=filled((WIDTH, inner), seed + 3),
    )


def true_pulid(layers: int) -> PulidModel:
    """Return a PuLID model of the true width with ``layers`` layers and no ID encoder."""
    return PulidModel("bench", None, tuple(true_layer(10 * i) for i in range(layers)))


def id_tokens(count: int, seed: int = 0) -> Tensor:
    """Return random ID tokens [1, count, C]."""
    return torch.randn(1, count, TOKEN_WIDTH, generator=torch.Generator().manual_seed(seed))


def folded_form(layer: CrossAttention, tokens: Tensor, dtype: torch.dtype) -> nn.Module:
    """Return the folded layer of one identity."""
    parts = [t.to(dtype).contiguous() for t in layer.fold(tokens)]
    return FoldedLayer(*parts, layer.heads, comfy.ops.manual_cast)


def plain_form(layer: CrossAttention, tokens: Tensor, dtype: torch.dtype) -> nn.Module:
    """Return the plain layer of one identity."""
    keys_values = tuple(t.to(dtype).contiguous() for t in layer.keys_values(tokens))
    parts = [t.to(dtype).contiguous() for t in (*layer.queries(), layer.to_out)]
    return PlainLayer(*parts, [keys_values], comfy.ops.manual_cast)


def cheaper_form(layer: CrossAttention, tokens: Tensor, dtype: torch.dtype) -> nn.Module:
    """Return the layer in the form that the pack takes for these tokens."""
    sizes = (WIDTH, HEADS, [tokens.shape[1]])
    form = plain_form if plain_cost(*sizes) < folded_cost(*sizes) else folded_form
    return form(layer, tokens, dtype)


def crossover_by_count() -> float:
    """Return the number of ID tokens from which the pack takes the plain form."""
    fixed = plain_cost(WIDTH, HEADS, [0])
    each = folded_cost(WIDTH, HEADS, [1]) - (plain_cost(WIDTH, HEADS, [1]) - fixed)
    return fixed / each


def device_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
