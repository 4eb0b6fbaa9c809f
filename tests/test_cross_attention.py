"""Folded and plain forms against the authors' formula, in every dtype."""

from __future__ import annotations

import json
import math
from pathlib import Path

import comfy.ops
import pytest
import torch
from golden.weights import golden_input, golden_state_dict
from pulid_pack.pulid_flux.checkpoint import build_layers
from pulid_pack.pulid_flux.cross_attention import (
    CrossAttention,
    FoldedLayer,
    PlainLayer,
    folded_cost,
    plain_cost,
)
from torch import Tensor
from torch.nn.functional import layer_norm

GOLDEN = Path(__file__).parent / "golden"
ONE = torch.tensor(1.0)


def authors(layer: CrossAttention, tokens: Tensor, img: Tensor) -> Tensor:
    """PerceiverAttentionCA as method.md describes it, in the inputs' dtype."""
    w = layer.to(img.device, img.dtype)
    x = layer_norm(tokens, tokens.shape[-1:], w.norm1_weight, w.norm1_bias)
    y = layer_norm(img, img.shape[-1:], w.norm2_weight, w.norm2_bias)
    k, v = (x @ w.to_kv.T).chunk(2, -1)
    q, k, v = (t.unflatten(-1, (w.heads, 128)).transpose(1, 2) for t in (y @ w.to_q.T, k, v))
    scale = 1 / math.sqrt(math.sqrt(128))
    scores = (q * scale) @ (k * scale).transpose(-2, -1)
    accurate = torch.float64 if img.dtype == torch.float64 else torch.float32
    out = scores.softmax(-1, dtype=accurate).to(img.dtype) @ v
    return out.transpose(1, 2).flatten(2) @ w.to_out.T


def folded(layer: CrossAttention, tokens: Tensor, img: Tensor) -> Tensor:
    parts = [t.to(img.dtype) for t in layer.fold(tokens)]
    module = FoldedLayer(*parts, layer.heads, comfy.ops.manual_cast)
    return module(layer_norm(img, img.shape[-1:]), [ONE])


def plain(layer: CrossAttention, tokens: Tensor, img: Tensor) -> Tensor:
    q, p = (t.to(img.dtype) for t in layer.queries())
    keys_values = [tuple(t.to(img.dtype) for t in layer.keys_values(tokens))]
    module = PlainLayer(q, p, layer.to_out.to(img.dtype), keys_values, comfy.ops.manual_cast)
    return module(layer_norm(img, img.shape[-1:]), [ONE])


def golden_layer() -> CrossAttention:
    shapes = json.loads((GOLDEN / "manifest.json").read_text())["perceiver_ca"]["shapes"]
    weights = golden_state_dict(shapes)
    return build_layers({k.removeprefix("pulid_ca."): v for k, v in weights.items()}, "golden")[0]


def random_layer(dim: int = 384, width: int = 64, heads: int = 3) -> CrossAttention:
    draw = torch.Generator().manual_seed(5)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=draw) / math.sqrt(columns)

    def vector(size: int, mean: float) -> Tensor:
        return mean + 0.3 * torch.randn(size, generator=draw)

    return CrossAttention(
        *(vector(size, mean) for size in (width, dim) for mean in (1.0, 0.0)),
        matrix(heads * 128, dim),
        matrix(2 * heads * 128, width),
        matrix(dim, heads * 128),
    )


def case(name: str) -> tuple[CrossAttention, Tensor, Tensor]:
    if name == "golden":
        tokens, img = golden_input("ca.id", (2, 7, 96)), golden_input("ca.img", (2, 33, 256))
        return golden_layer(), tokens[:1], img
    draw = torch.Generator().manual_seed(6)
    tokens = torch.randn(1, 32, 64, generator=draw)
    return random_layer(), tokens, 3 * torch.randn(2, 50, 384, generator=draw)


@pytest.mark.parametrize("form", [folded, plain])
@pytest.mark.parametrize("name", ["golden", "random"])
def test_float32_is_the_authors_formula(form, name):
    layer, tokens, img = case(name)
    truth = authors(layer, tokens.double(), img.double())
    error = (form(layer, tokens, img) - truth).abs().max() / truth.abs().max()
    assert error < 1e-5  # relative, as float32's rounding over these sums allows


@pytest.mark.parametrize("form", [folded, plain])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["golden", "random"])
def test_sixteen_bit_is_as_good_as_the_authors_formula(form, dtype, name):
    """Rounding differs from place to place; its size must be that of the same formula's own."""
    layer, tokens, img = case(name)
    img = img.to(dtype)
    truth = authors(layer, tokens.double(), img.double())

    def error(out: Tensor) -> float:
        assert out.dtype == dtype
        return float((out - truth).square().mean().sqrt() / truth.square().mean().sqrt())

    theirs = error(authors(layer, tokens.to(dtype), img))
    assert error(form(layer, tokens, img)) < 1.5 * theirs


def test_gains_scale_each_identity_and_each_token():
    layer, tokens, img = case("random")
    x = layer_norm(img, img.shape[-1:])
    module = FoldedLayer(*layer.fold(tokens), layer.heads, comfy.ops.manual_cast)
    mask = torch.rand(2, 50, 1)
    expected = authors(layer, tokens, img) * mask * 0.7
    torch.testing.assert_close(module(x, [mask * 0.7]), expected, rtol=1e-4, atol=1e-5)


def test_the_plain_form_sums_identities_and_leaves_out_the_absent():
    layer, tokens, img = case("random")
    other = tokens.flip(1) * 0.5 + 1
    keys_values = [layer.keys_values(t) for t in (tokens, other)]
    module = PlainLayer(*layer.queries(), layer.to_out, keys_values, comfy.ops.manual_cast)
    x, mask = layer_norm(img, img.shape[-1:]), torch.rand(2, 50, 1)
    both = authors(layer, tokens, img) * 0.4 + authors(layer, other, img) * mask
    torch.testing.assert_close(module(x, [0.4 * ONE, mask]), both, rtol=1e-4, atol=1e-5)
    one = authors(layer, other, img) * mask
    torch.testing.assert_close(module(x, [None, mask]), one, rtol=1e-4, atol=1e-5)


def test_the_costs_cross_where_the_counts_do():
    """At FLUX's width: 2·3072·16 a token folded; 2·3072·2048 once and 2·2048 a token plain."""
    dim, heads = 3072, 16
    assert folded_cost(dim, heads, [32]) == 2 * 3072 * 16 * 32
    assert plain_cost(dim, heads, [32, 32]) == 2 * 3072 * 2048 + 2 * 2048 * 64
    cheaper = [
        t for t in range(1, 300) if plain_cost(dim, heads, [t]) < folded_cost(dim, heads, [t])
    ]
    assert cheaper[0] == 134
