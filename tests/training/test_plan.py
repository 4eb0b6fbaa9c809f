"""The plan: its figures against those counted on the virtual card, at FLUX.1's true width."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pulid_pack.training import plan
from pulid_pack.training.config import Stage
from pulid_pack.training.plan import FAMILIES, GB, Family, Need, held, need

from bench.true_size import DEPTHS, true_model
from bench.true_training import counted
from bench.virtual_card import virtual_card

pytestmark = pytest.mark.own_switches

FEW = (2, 3)
BRANCH = {"branch_steps": 3, "gradient_steps": 2}
STAGES = {
    "diffusion": {"diffusion": 1.0},
    "identity": {"diffusion": 0.0, "id": 1.0, **BRANCH},
    "alignment": {"diffusion": 0.0, "id": 1.0, "semantic": 1.0, "layout": 1.0, **BRANCH},
}


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode to the card."""


@pytest.fixture(scope="module")
def card():
    with virtual_card(80 << 30) as card, card.running():
        yield card


def compare(family: Family, depths: tuple[int, int], stage: dict, side: int) -> None:
    """Count a step of a model that deep and compare the plan of the same with it, within 5 %."""
    model = true_model(family.name, depths=depths)
    found = counted(model, stage, side)
    planned = replace(family, doubles=depths[0], singles=depths[1])
    own = Stage("counted", steps=1, **stage)
    narrow = plan.HALF * plan.ENCODER  # held during a step, so the count has it in the peak
    others = plan.HALF * plan.TOWER + plan.SINGLE * plan.RECOGNISER  # not there in the count
    wanted = need(planned, side, own, held(planned) - others - narrow)
    assert found.held == pytest.approx(wanted.held, rel=0.05)
    assert found.kept == pytest.approx(wanted.kept + narrow, rel=0.05)
    assert found.peak == pytest.approx(wanted.each + narrow, rel=0.05)
    assert found.flops == pytest.approx(wanted.flops, rel=0.05)


@pytest.mark.parametrize(
    ("family", "stage", "side"),
    [
        (FAMILIES[0], "diffusion", 1024),
        (FAMILIES[2], "diffusion", 1024),
        pytest.param(FAMILIES[0], "alignment", 512, marks=pytest.mark.slow),
        pytest.param(FAMILIES[2], "alignment", 512, marks=pytest.mark.slow),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_the_plan_is_what_the_virtual_card_counts(card, family, stage, side):
    compare(family, FEW, STAGES[stage], side)


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILIES[0], FAMILIES[2]], ids=lambda one: one.name)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", [512, 1024])
def test_the_plan_of_the_whole_model(card, family, stage, side):
    compare(family, DEPTHS, STAGES[stage], side)


def test_sizes_are_the_published_ones():
    """Parameters in billions, and PuLID's layers."""
    found = [(one.name, round(one.parameters / 1e9, 1), one.layers) for one in FAMILIES]
    assert found == [
        ("FLUX.1-dev", 11.9, 20),
        ("FLUX.1-schnell", 11.9, 20),
        ("Chroma", 8.9, 20),
        ("FLUX.2 klein 4B", 3.9, 8),
        ("FLUX.2 klein 9B", 9.0, 10),
    ]
    assert FAMILIES[0].adapter == pytest.approx(571.0e6, rel=1e-3)
    # FLUX.1-dev's forward without identity: counted as 21.5, 41.9, 74.4 TFLOP
    flops = [plan.forward_flops(FAMILIES[0], side, False) / 1e12 for side in plan.SIDES]
    assert flops == pytest.approx([21.5, 41.9, 74.4], rel=0.01)


def test_what_a_card_has_room_for():
    """60 GB of an 80 GB card are spoken for; what is left is divided, less what is spared."""
    assert Need(60 * GB, 4 * GB, 0).fits(80) == 4
    assert Need(60 * GB, 4 * GB, 0).fits(48) == 0
    assert held(FAMILIES[0], 1) == held(FAMILIES[0]) - FAMILIES[0].parameters
    assert held(FAMILIES[0], ema=True) == held(FAMILIES[0]) + 4 * FAMILIES[0].adapter
    for optimizer, less in (("adamw", 0), ("adamw8bit", 6), ("muon", 4)):
        own = held(FAMILIES[0], optimizer=optimizer)
        assert own == held(FAMILIES[0]) - less * FAMILIES[0].adapter
