"""The folded layer against the authors' formula, in every dtype, and what it costs."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from golden.weights import golden_input, golden_state_dict
from places import GOLDEN
from pulid_pack.pulid_flux.checkpoint import build_layers
from pulid_pack.pulid_flux.cross_attention import CrossAttention, FoldedLayer, FoldingLayer
from torch import Tensor
from torch.nn.functional import layer_norm

CPU = torch.device("cpu")
ONE = torch.tensor(1.0)


def folded(
    layer: CrossAttention,
    tokens: Tensor,
    img: Tensor,
    gain: Tensor = ONE,
    out: Tensor | None = None,
) -> Tensor:
    """Return img with the identity added by the folded layer."""
    weights = [t.to(img.dtype) for t in FoldingLayer(layer, CPU).fold(tokens)]
    module, x = FoldedLayer(*weights, layer.heads), layer_norm(img, img.shape[-1:])
    out = torch.empty_like(img)
    new = module(x, gain.to(img.dtype), img)
    assert module(x, gain.to(img.dtype), img, out) is out
    # written into a tensor or as a new one: the same products, summed in another order at most
    torch.testing.assert_close(out, new)
    return out


def golden_layer() -> CrossAttention:
    shapes = json.loads((GOLDEN / "manifest.json").read_text())["perceiver_ca"]["shapes"]
    return build_layers(golden_state_dict(shapes), "golden")[0]


def random_layer(dim: int = 384, width: int = 64, heads: int = 3) -> CrossAttention:
    layer, draw = CrossAttention(dim, width, heads), torch.Generator().manual_seed(5)
    for name, p in layer.named_parameters():
        noise = torch.randn(p.shape, generator=draw)
        mean = 1.0 if name.endswith("norm1.weight") or name.endswith("norm2.weight") else 0.0
        p.data = noise / p.shape[1] ** 0.5 if p.ndim == 2 else mean + 0.3 * noise
    return layer.requires_grad_(False)


def case(name: str) -> tuple[CrossAttention, Tensor, Tensor]:
    if name == "golden":
        tokens, img = golden_input("ca.id", (2, 7, 96)), golden_input("ca.img", (2, 33, 256))
        return golden_layer(), tokens[:1], img
    draw = torch.Generator().manual_seed(6)
    tokens = torch.randn(1, 32, 64, generator=draw)
    return random_layer(), tokens, 3 * torch.randn(2, 50, 384, generator=draw)


def authors(layer: CrossAttention, tokens: Tensor, img: Tensor) -> Tensor:
    """The authors' formula in the inputs' dtype, added as they add it."""
    same = copy.deepcopy(layer).to(img.dtype)
    return img + same(tokens.to(img.dtype).expand(len(img), -1, -1), img)


@pytest.mark.parametrize("name", ["golden", "random"])
def test_float32_is_the_authors_formula(name):
    layer, tokens, img = case(name)
    truth = authors(layer, tokens, img.double())
    error = (folded(layer, tokens, img) - truth).abs().max() / (truth - img).abs().max()
    assert error < 1e-5  # relative, as float32's rounding over these sums allows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["golden", "random"])
def test_sixteen_bit_is_as_good_as_the_authors_formula(dtype, name):
    """Rounding differs from place to place; its size must be that of the same formula's own."""
    layer, tokens, img = case(name)
    img = img.to(dtype)
    truth = authors(layer, tokens, img.double())

    def error(out: Tensor) -> float:
        assert out.dtype == dtype
        return float((out - truth).square().mean().sqrt())

    assert error(folded(layer, tokens, img)) < 1.1 * error(authors(layer, tokens, img))


def test_gains_scale_each_token():
    layer, tokens, img = case("random")
    mask = torch.rand(2, 50, 1)
    expected = img + (authors(layer, tokens, img) - img) * mask * 0.7
    found = folded(layer, tokens, img, mask * 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_second_identity_is_added_in_place():
    layer, tokens, img = case("random")
    other = tokens.flip(1) * 0.5 + 1
    first = folded(layer, tokens, img, 0.4 * ONE)
    module = FoldedLayer(*FoldingLayer(layer, CPU).fold(other), layer.heads)
    module(layer_norm(img, img.shape[-1:]), ONE, first, first)
    parts = [authors(layer, t, img) - img for t in (tokens, other)]
    torch.testing.assert_close(first, img + 0.4 * parts[0] + parts[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [False, True])
@torch.inference_mode(False)
def test_gradients_flow_through_the_folded_layer(target):
    """A LoRA can be trained on a model that has an identity."""
    layer, tokens, img = (x.clone() if isinstance(x, Tensor) else x for x in case("random"))
    img.requires_grad_()
    with torch.no_grad():
        weights = FoldingLayer(layer, CPU).fold(tokens)
    out = torch.empty_like(img) if target else None
    out = FoldedLayer(*weights, layer.heads)(layer_norm(img, img.shape[-1:]), ONE, img, out)
    (found,) = torch.autograd.grad(out.square().sum(), img)
    (expected,) = torch.autograd.grad(authors(layer, tokens, img).square().sum(), img)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
