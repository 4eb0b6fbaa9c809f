"""Uses of an identity in FLUX: their factors, and which of them share a fold."""

from __future__ import annotations

import pytest
from pulid_pack.identity.window import Window
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.apply import hooks_of
from pulid_pack.pulid_flux.uses import FluxUse
from standins.lab import person, small_flux, small_pulid


@pytest.fixture(scope="module")
def pulid():
    return small_pulid()


def test_without_both_factors_nothing_acts(pulid):
    def use(**factors: float) -> FluxUse:
        return FluxUse(pulid=pulid, identity=person(1), weight=1.0, window=Window(), **factors)

    assert (use().double_weight, use().single_weight) == (1.0, 1.0)
    assert not use().never_acts
    assert not use(double_weight=0.0).never_acts and not use(single_weight=0.0).never_acts
    assert use(double_weight=0.0, single_weight=0.0).never_acts


def test_equal_tokens_share_a_fold(pulid):
    """Each fold says whose positive and whose negative rows get it, by the number of the use."""
    model = small_flux(depth=1, depth_single=1)
    for seed, unconditional in (
        (1, "zero identity"),
        (2, "same identity"),
        (1, "none"),
        (1, "zero identity"),
    ):
        apply = PuLIDFluxApplyIdentity.execute
        model = apply(model, pulid, person(seed), 1.0, 0.0, 1.0, unconditional=unconditional)[0]
    found = [(used.positive, used.negative) for used in hooks_of(model).shared]
    assert found == [((0, 2, 3), ()), ((1,), (1,)), ((), (0, 3))]
