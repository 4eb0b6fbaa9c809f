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
    SETTINGS,
    SQUARE,
    layer_widths,
    true_pulid_sdxl,
    true_sdxl,
    with_authors,
    with_identity,
)
from bench.true_size import forward, prepare
from bench.virtual_card import GIB, can_be_dynamic, virtual_card

PIXELS = {640: 64 * 64, 1280: 32 * 32}  # image tokens of a layer at 1024 x 1024, by its width


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode to the card: inside it, operations show themselves untaken apart."""


@pytest.fixture(scope="module")
def card():
    with virtual_card(24 * GIB, dynamic=can_be_dynamic()) as card, card.running():
        yield card


@pytest.fixture(scope="module")
def sdxl(card):
    return true_sdxl()


def cost(model, picture):
    """Return what a forward costs, and the bytes of the models besides that its run loads."""
    needed = prepare(model, picture)
    return measured(lambda: forward(model, picture)), sum(one.model_size() for one in needed)


@pytest.mark.parametrize(
    ("family", "share", "kept"), [("sdxl-v1", 0.001, 7e6), ("sdxl-v1.1", 0.0025, 22e6)]
)
def test_a_guided_step(sdxl, family, share, kept):
    pulid = true_pulid_sdxl(family)
    without, nothing = cost(sdxl, GUIDED)
    patched = with_identity(sdxl, pulid, mask=0.5)
    own, needed = cost(patched, GUIDED)
    added = own.beyond(without)
    tokens = SETTINGS[family][0]
    # both rows: scores of q with k, and their product with v, in every layer
    products = sum(2 * 2 * PIXELS[width] * width * tokens for width in layer_widths())
    assert added.flops == 2 * products <= share * without.flops
    assert nothing == 0 and 0.95 * kept < needed <= kept
    alone, half = cost(with_identity(sdxl, pulid), SQUARE)
    assert half == needed / 2  # at cfg 1 the unconditional tokens stay away
    theirs = cost(with_authors(sdxl, pulid, SQUARE), SQUARE)[0]
    assert alone.bytes < theirs.bytes and alone.flops < theirs.flops


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_dtypes(card, dtype):
    model = with_identity(true_sdxl(dtype), true_pulid_sdxl("sdxl-v1"))
    assert cost(model, SQUARE)[0].flops > 0
