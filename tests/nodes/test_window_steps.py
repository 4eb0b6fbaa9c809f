"""The steps that the window bar shows are those in which the identity acts."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse

import pytest
import torch
from pulid_pack.identity.window import Window
from pulid_pack.nodes.window_steps import Schedule, factors, read
from pulid_pack.pulid_flux.apply import apply_identity
from pulid_pack.pulid_flux.uses import FluxUse
from pulid_pack.pulid_sdxl.apply import apply_identity as apply_to_sdxl
from pulid_pack.pulid_sdxl.uses import SDXLUse
from standins.lab import cond, person, small_flux, small_pulid

QUERY = {"start_at": "0.2", "end_at": "1", "start_step": "-1", "end_step": "-1"}
QUERY |= {"weight_curve": "constant", "steps": "20", "scheduler": "simple", "denoise": "1"}
QUERY |= {"first": "0", "last": "10000", "rising": "false"}


def acting(window: Window, schedule: Schedule) -> list[int]:
    return [step for step, factor in enumerate(factors(window, schedule)) if factor]


@pytest.mark.parametrize(
    ("window", "schedule", "expected"),
    [
        (Window(0.2), Schedule(20, "simple"), range(4, 20)),
        (Window(4 / 28), Schedule(28, "simple"), range(4, 28)),
        (Window(4 / 28), Schedule(28, "beta"), range(6, 28)),  # it spends more steps there
        (Window(0.0, 0.1), Schedule(4, "simple"), [0]),  # R13: at least one step
        (Window(0.2, 0.5), Schedule(3, "simple"), [1]),
        (Window(0.0, 0.25), Schedule(4, "simple", rising=True), [0]),  # R4: by position
        (Window(0.75, 1.0), Schedule(4, "simple", rising=True), [3]),
        (Window(0.5), Schedule(4, "simple", denoise=0.5), range(4)),  # the run begins there
        (Window(0.0, 0.5), Schedule(10, "simple", first=6), []),
        (Window(0.0, 0.5), Schedule(10, "simple", last=5), range(5)),
        (Window(start_step=2, end_step=3), Schedule(4, "simple"), [2]),
        (Window(0.5, 0.5), Schedule(4, "simple"), []),
        (Window(), Schedule(4, "simple", denoise=0.0), []),
    ],
)
def test_the_steps_of_a_window(window, schedule, expected):
    assert acting(window, schedule) == list(expected)


def test_a_curve_is_told_step_by_step():
    told = factors(Window(curve="linear out"), Schedule(5, "simple"))
    assert told[0] == 1 and told[-1] == 0
    assert told == sorted(told, reverse=True)


@pytest.mark.parametrize(
    ("name", "scheduler", "denoise", "steps"),
    [("euler", "simple", 1.0, 7), ("euler", "beta", 1.0, 6), ("heun", "karras", 0.6, 5)],
)
def test_a_run_acts_in_the_steps_that_were_told(name, scheduler, denoise, steps):
    """By KSampler itself, whose model has FLUX's own shift."""
    import nodes

    told = []
    window = Window(0.3, 0.8)
    use = FluxUse(
        pulid=small_pulid(),
        identity=person(1),
        weight=1.0,
        window=window,
        report=lambda *counted: told.append(counted),
    )
    model = apply_identity(small_flux(depth=1, depth_single=1), use)
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    nodes.common_ksampler(
        model, 1, steps, 1.0, name, scheduler, cond(1), cond(2), latent, denoise=denoise
    )
    expected = acting(window, Schedule(steps, scheduler, denoise))
    assert told == [(len(expected), steps, False)]


@pytest.mark.parametrize(("scheduler", "steps"), [("karras", 8), ("simple", 4)])
def test_a_run_of_sdxl_acts_in_the_steps_that_were_told(scheduler, steps):
    from standins import sdxl

    import nodes

    told = []
    window = Window(0.3, 0.8)
    use = SDXLUse(
        pulid=sdxl.tiny_pulid(),
        identity=sdxl.someone(1),
        weight=1.0,
        window=window,
        report=lambda *counted: told.append(counted),
    )
    model = apply_to_sdxl(sdxl.tiny_sdxl(), use)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    conds = sdxl.text(1), sdxl.text(2)
    nodes.common_ksampler(model, 1, steps, 1.0, "euler", scheduler, *conds, latent)
    query = QUERY | {"start_at": "0.3", "end_at": "0.8", "steps": str(steps), "sdxl": "true"}
    expected = acting(*read(query | {"scheduler": scheduler}))
    assert told == [(len(expected), steps, False)] and 0 < len(expected) < steps


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "0"},
        {"steps": "100000"},
        {"steps": "many"},
        {"denoise": "nan"},
        {"denoise": "1e-9"},
        {"start_at": "inf"},
        {"scheduler": "none such"},
        {"weight_curve": ""},
        {"first": "-3"},
        {"last": None},
    ],
)
def test_what_is_no_schedule_is_refused(change):
    assert read(QUERY) is not None
    query = {name: value for name, value in (QUERY | change).items() if value is not None}
    assert read(query) is None


@pytest.mark.server
def test_the_server_tells_the_steps(server):
    found = server.get("/pulid_flux/window?" + urllib.parse.urlencode(QUERY))
    assert found == {"factors": [0.0] * 4 + [1.0] * 16}
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.get("/pulid_flux/window?steps=1")
    assert refused.value.code == 400
    assert json.load(refused.value) == {"error": "not a window and a schedule"}
