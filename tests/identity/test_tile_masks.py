"""A mask in another pack's tiles, whose place in the image nobody tells: the log says so."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.apply import hooks_of
from standins.lab import person, sample, small_flux, small_pulid

SAID = (
    "PuLID: identity 1 has a mask or region, but another node samples the image in tiles "
    "(latent (12, 5) of (12, 10)), so the mask covers each tile as a whole. Remove the mask and "
    "region, or the tiles."
)


def halves(run, args):
    """Sample the left and the right half by themselves."""
    x, t, c = args["input"], args["timestep"], args["c"]
    return torch.cat([run(part, t, **c) for part in x.chunk(2, dim=-1)], dim=-1)


@pytest.mark.parametrize(
    ("region", "tiles", "said"),
    [
        ("left half", True, [SAID]),
        ("whole picture", True, []),
        ("left half", False, []),
    ],
)
def test_a_mask_in_tiles_is_said_once_a_run(caplog, region, tiles, said):
    flux = small_flux(depth=1, depth_single=1)
    args = (flux, small_pulid(), person(1), 1.0, 0.0, 1.0)
    model = PuLIDFluxApplyIdentity.execute(*args, region=region)[0]
    (use,) = hooks_of(model).uses
    on_node = []
    object.__setattr__(use, "report", lambda *told: on_node.append(told))
    if tiles:
        model.set_model_unet_function_wrapper(halves)
    sample(model, steps=3)
    assert [m for m in caplog.messages if "tiles" in m] == said
    assert on_node == [(3, 3, bool(said))]
