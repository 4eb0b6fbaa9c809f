"""What identity costs a card, counted on the virtual one at FLUX.1's true width.

Each figure is of one block that takes identity, so few blocks are enough; the bench counts whole
models. The authors' formula goes through the same blocks.
"""

from __future__ import annotations

import pytest
from torch._subclasses.fake_tensor import DataDependentOutputException

from bench.cost import Cost, measured
from bench.true_size import (
    HEADS,
    ID_TOKENS,
    LAYERS,
    TOKEN_WIDTH,
    WIDTH,
    Picture,
    forward,
    prepare,
    true_model,
    true_pulid,
    with_authors,
    with_identity,
)
from bench.virtual_card import virtual_card

pytestmark = pytest.mark.own_switches

FEW, MORE = (2, 2), (3, 5)  # double and single blocks: 2 and 4 of them take identity
BLOCKS = 2
TOKENS = 4096  # of 1024 x 1024 pixels
FOLDED = 2 * 2 * TOKENS * WIDTH * HEADS * ID_TOKENS  # FLOPs of both products of one identity
SQUARE = Picture()


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode to the card: inside it, operations show themselves untaken apart."""


@pytest.fixture(scope="module")
def card():
    with virtual_card(40 << 30) as card, card.running():
        yield card


@pytest.fixture(scope="module")
def pulid(card):
    """Return the true-size PuLID model."""
    return true_pulid()


@pytest.fixture(scope="module")
def flux(card):
    """Return a FLUX.1-dev of few blocks."""
    return true_model(depths=FEW)


@pytest.fixture(scope="module")
def one(flux, pulid):
    """Return what one identity adds to a forward."""
    return added(with_identity(flux, pulid), flux)


def cost_of(model, picture: Picture = SQUARE) -> Cost:
    """Return the cost of a forward."""
    prepare(model, picture)
    return measured(lambda: forward(model, picture))


def added(model, without, picture: Picture = SQUARE) -> Cost:
    """Return what a forward of ``model`` costs more."""
    return cost_of(model, picture).beyond(cost_of(without, picture))


def of_a_block(change, without: Cost) -> Cost:
    """Return what ``change`` of a model adds to each of FLUX.1's 20 blocks with identity.

    ``without`` is what it adds to a model of few blocks. Blocks are alike, so the difference to a
    model of more blocks tells what of it is once a forward.
    """
    model = true_model(depths=MORE)
    block = added(change(model), model).beyond(without).times(1 / BLOCKS)
    once = without.beyond(block.times(BLOCKS))
    return Cost(*(x + y / LAYERS for x, y in zip(parts(block), parts(once), strict=True)))


def parts(cost: Cost) -> tuple[float, ...]:
    return cost.flops, cost.kernels, cost.bytes


def test_one_identity_at_most_six_kernels_and_175_mb_a_block(pulid, one):
    """20 such blocks: 3.5 GB a forward. One read and one write of the tokens are 50 MB."""
    cost = of_a_block(lambda model: with_identity(model, pulid), one)
    assert cost.flops == FOLDED
    assert cost.kernels <= 6
    assert 2 * 25.1e6 < cost.bytes <= 175e6


def test_the_authors_formula_costs_more(flux, one):
    theirs = added(with_authors(flux, SQUARE), flux)
    # to_q and to_out on the picture, to_kv on the ID tokens, and the attention
    inner = HEADS * 128
    maps = 2 * 2 * TOKENS * WIDTH * inner + 2 * ID_TOKENS * TOKEN_WIDTH * 2 * inner
    assert theirs.flops == BLOCKS * (maps + 2 * 2 * TOKENS * ID_TOKENS * inner)
    assert 0.24 < one.flops / theirs.flops < 0.25
    assert one.bytes < 0.4 * theirs.bytes
    assert one.kernels < 0.5 * theirs.kernels


def test_cost_grows_with_the_picture(flux, pulid, one):
    large = added(with_identity(flux, pulid), flux, Picture(1536, 1536))
    assert large.flops == one.flops * 2.25
    assert large.kernels == one.kernels
    assert large.bytes <= 2.25 * one.bytes


def test_a_second_identity_costs_no_more_than_the_first(flux, pulid, one):
    two = added(with_identity(flux, pulid, 2), flux)
    assert two.flops == 2 * one.flops
    assert two.kernels < 2 * one.kernels
    assert two.bytes < 2 * one.bytes


def test_a_mask_adds_no_pass_over_the_tokens(flux, pulid, one):
    masked = added(with_identity(flux, pulid, mask=0.5), flux)
    assert masked.flops == one.flops
    assert masked.kernels - one.kernels <= 6  # once a forward: bringing the mask over
    assert masked.bytes - one.bytes < 1e6


def test_true_cfg_costs_twice(flux, pulid, one):
    both = added(with_identity(flux, pulid), flux, Picture(rows=(1, 0)))
    assert both.flops == 2 * one.flops
    assert both.bytes < 2.1 * one.bytes


@pytest.mark.parametrize(("rows", "share"), [((0,), 0.155), ((1, 0), 0.31)], ids=["cfg 1", "cfg 3"])
def test_a_run_asks_for_the_layers_that_its_rows_need(flux, pulid, rows, share):
    """As a share of the cross-attention layers, through ComfyUI's own preparation."""
    needed = sum(m.model_size() for m in prepare(with_identity(flux, pulid), Picture(rows=rows)))
    layers = sum(p.nbytes for layer in pulid.layers[:BLOCKS] for p in layer.parameters())
    assert 0.95 * share < needed / layers <= share


def test_a_window_is_decided_from_the_sigma_and_nothing_else_is_read(flux, pulid):
    """The sigma lies on the card; an identity that acts in every step does not wait for it."""
    model = with_identity(flux, pulid, start_at=0.4)
    prepare(model, SQUARE)
    with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
        forward(model, SQUARE)


@pytest.mark.slow
def test_the_true_model_costs_what_was_counted(card):
    """FLUX.1-dev: 11.90 G parameters, 74.385 TFLOP at 1024 x 1024 with 512 text tokens."""
    flux = true_model()
    assert sum(p.numel() for p in flux.model.parameters()) == pytest.approx(11.90e9, rel=1e-3)
    assert cost_of(flux).flops == pytest.approx(74.385e12, rel=1e-5)
