"""SDXL and its PuLID at their true size on the virtual card, with ComfyUI's dynamic VRAM.

A tensor on the wrong device, a weight read where it does not lie, or a value read back inside a
forward is an error here as on a card.
"""

from __future__ import annotations

import pytest
import torch

from bench.cost import measured
from bench.true_sdxl import (
    GUIDED,
    SQUARE,
    layer_widths,
    true_pulid_sdxl,
    true_sdxl,
    unet_shapes,
    with_identity,
)
from bench.true_size import forward, prepare
from bench.virtual_card import GIB, can_be_dynamic, virtual_card

pytestmark = pytest.mark.own_switches

PIXELS = {640: 64 * 64, 1280: 32 * 32}  # image tokens of a layer at 1024 x 1024, by its width


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode to the card: inside it, operations show themselves untaken apart."""


# first: the other tests keep a card with dynamic VRAM in place
def test_lowvram_with_fp8_weights():
    """A card that holds a part of the UNet, without dynamic VRAM: weights are cast and brought."""
    shapes = unet_shapes()
    with virtual_card(2 * GIB) as card, card.running():
        model = true_sdxl(shapes, torch.float8_e4m3fn)
        patched = with_identity(model, true_pulid_sdxl("sdxl-v1"))
        prepare(patched, SQUARE)
        assert 0 < model.loaded_size() < model.model_size()
        out = forward(patched, SQUARE)
    assert (out.shape, out.device, out.dtype) == ((1, 4, 128, 128), card.device, torch.float32)


@pytest.fixture(scope="module")
def sdxl():
    shapes = unet_shapes()
    with virtual_card(24 * GIB, dynamic=can_be_dynamic()) as card, card.running():
        yield true_sdxl(shapes)


def cost(model, picture):
    """Return what a forward costs, and the bytes of the models besides that its run loads."""
    needed = prepare(model, picture)
    return measured(lambda: forward(model, picture)), sum(one.model_size() for one in needed)


def products(tokens: int) -> int:
    """Return the FLOPs of a row: scores of q with k, and their product with v, in every layer."""
    return sum(2 * 2 * PIXELS[width] * width * tokens for width in layer_widths())


def test_a_guided_step_of_v1_1(sdxl):
    without, _ = cost(sdxl, GUIDED)
    own, needed = cost(with_identity(sdxl, true_pulid_sdxl("sdxl-v1.1"), mask=0.5), GUIDED)
    added = own.beyond(without).flops
    assert added == 2 * products(32) <= 0.0025 * without.flops
    assert 2 * products(10) <= 0.001 * without.flops  # v1: the same with fewer tokens
    assert 21e6 < needed <= 22e6


def test_what_v1_needs_on_the_card(sdxl):
    patched = with_identity(sdxl, true_pulid_sdxl("sdxl-v1"))
    both = prepare(patched, GUIDED)
    (one,) = prepare(patched, SQUARE)  # at cfg 1 the unconditional tokens stay away
    # k and v of ten tokens in 16 bit
    assert one.model_size() == sum(2 * 10 * 2 * width for width in layer_widths())
    assert sum(patcher.model_size() for patcher in both) == 2 * one.model_size() <= 7e6
