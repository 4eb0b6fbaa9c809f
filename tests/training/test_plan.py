"""The plan: its figures against those counted on the virtual card, at FLUX.1's true width."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pulid_pack.training import plan
from pulid_pack.training.config import Stage
from pulid_pack.training.plan import FAMILIES, Family, held, need

from bench.true_size import DEPTHS, true_model
from bench.true_training import counted
from bench.virtual_card import virtual_card

FEW = (2, 2)
BRANCH = {"branch_steps": 3, "gradient_steps": 2}
STAGES = {
    "diffusion": {"diffusion": 1.0},
    "identity": {"diffusion": 0.0, "id": 1.0, **BRANCH},
    "alignment": {"diffusion": 0.0, "semantic": 1.0, "layout": 1.0, **BRANCH},
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
    others = plan.HALF * plan.TOWER + plan.SINGLE * plan.RECOGNISER  # not there in the count
    wanted = need(planned, side, own, held(planned) - others)
    assert found.held == pytest.approx(wanted.held, rel=0.05)
    assert found.peak == pytest.approx(wanted.each, rel=0.05)
    assert found.flops == pytest.approx(wanted.flops, rel=0.05)


@pytest.mark.parametrize(
    ("stage", "side"), [("diffusion", 512), ("identity", 512), ("alignment", 512)]
)
def test_the_plan_is_what_the_virtual_card_counts(card, stage, side):
    compare(FAMILIES[0], FEW, STAGES[stage], side)


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILIES[0], FAMILIES[2]], ids=lambda one: one.name)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", [512, 1024])
def test_the_plan_of_the_whole_model(card, family, stage, side):
    compare(family, DEPTHS, STAGES[stage], side)
