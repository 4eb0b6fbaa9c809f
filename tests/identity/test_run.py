"""What a sampling run knows of each use of an identity, by number."""

from __future__ import annotations

import pytest
import torch
from comfy.samplers import CFGGuider
from pulid_pack.identity.identity import FLUX, SDXL_V1, Identity, check_fits
from pulid_pack.identity.masks import to_tokens
from pulid_pack.identity.rows import Prompts, Rows
from pulid_pack.identity.run import IdentityUse, SamplingRun, report, runs_negative, start_run
from pulid_pack.identity.window import Window

ME = Identity(torch.ones(1, 2, 3), torch.zeros(1, 2, 3))
NOBODY = Identity(torch.ones(1, 0, 3), torch.ones(1, 0, 3))
SIGMAS = [1.0, 0.75, 0.5, 0.25, 0.0]


def use(weight=1.0, window=None, **more):
    return IdentityUse(pulid=None, identity=ME, weight=weight, window=window or Window(), **more)


def started(*uses):
    return start_run(uses, lambda fraction: 1 - fraction, SIGMAS)


@pytest.mark.parametrize(
    ("unconditional", "expected"),
    [("zero identity", ME.uncond_id_tokens), ("same identity", ME.id_tokens), ("none", None)],
)
def test_tokens_of_a_negative_prompt(unconditional, expected):
    assert use().unconditional == "zero identity"
    one = use(unconditional=unconditional)
    assert one.tokens(negative=True) is expected
    assert one.tokens(negative=False) is ME.id_tokens


def test_what_never_acts():
    assert not use().never_acts and not use(weight=-1.0).never_acts
    assert not use(mask=torch.tensor([[[0.0, 0.1]]])).never_acts
    assert use(weight=0.0).never_acts
    assert use(window=Window(0.5, 0.5)).never_acts
    assert use(mask=torch.zeros(1, 2, 2)).never_acts
    assert IdentityUse(pulid=None, identity=NOBODY, weight=1.0, window=Window()).never_acts


def test_a_run_begins_with_nothing_done():
    run = started(use())
    assert (run.forwards, run.inserted, run.pictures, run.latent) == (0, False, None, None)
    assert run.steps == tuple(SIGMAS[:-1]) and not run.masks and run.prompts == Prompts()


def test_weights_are_multiplied_by_the_curves_factor():
    uses = [use(0.8), use(2.0, Window(curve="linear in")), use(1.0, Window(0.5, 1.0))]
    run = started(*uses)
    found = [run.weights(uses, {"sigmas": torch.tensor([s, 9.0])}) for s in SIGMAS[:-1]]
    expected = [[0.8, 0, 0], [0.8, 2 / 3, 0], [0.8, 4 / 3, 1], [0.8, 2, 1]]
    assert found == [pytest.approx(row) for row in expected]
    assert started(uses[0]).weights(uses[:1], {}) == [0.8]  # without a look at the sigmas


def test_a_run_counts_the_steps_in_which_an_identity_acted(caplog):
    told = []
    windows = [Window(), Window(0.25, 0.75), Window(start_step=9)]
    uses = [use(window=w, report=lambda *steps: told.append(steps)) for w in windows]
    report(started(*uses), uses)
    assert told == [(4, 4, False), (2, 4, False), (0, 4, False)]
    assert [r.getMessage()[:31] for r in caplog.records] == [
        "PuLID: identity 3 of 3 did not a"[:31]
    ]


def test_masks_follow_pictures_and_areas_and_are_made_once():
    run = SamplingRun((), latent=(8, 8))
    masks = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1))
    x = torch.zeros(6, 16, 8, 8)
    found = run.mask(0, masks, x, Rows(slice(3, 6), 3, False, None), (4, 4))
    whole = to_tokens(masks, (8, 8), (4, 4))
    assert torch.equal(found, whole[[0, 1, 0]])  # pictures 0, 1, 2 of two masks
    assert run.mask(0, masks, x, Rows(slice(0, 3), 3, True, None), (4, 4)) is found
    area = (4, 8, 2, 0)
    part = run.mask(0, masks, x[:, :, :4], Rows(slice(1, 2), 3, False, area), (2, 4))
    assert torch.equal(part, to_tokens(masks, (8, 8), (2, 4), area)[[1]])
    tile = run.mask(0, masks, x[:, :, :4, :4], Rows(slice(1, 2), 3, False, area), (2, 2))
    assert torch.equal(tile, to_tokens(masks, (4, 4), (2, 2))[[1]])  # no area: a tile gets it whole
    other = run.mask(1, 1 - masks, x, Rows(slice(0, 3), 3, False, None), (4, 4))
    assert torch.equal(other, to_tokens(1 - masks, (8, 8), (4, 4))[[0, 1, 0]])


def test_a_mask_becomes_each_tokens_share():
    mask = torch.zeros(1, 4, 4)
    mask[0, :2, :3] = 1  # token 0 whole, token 1 half
    assert to_tokens(mask, (4, 4), (2, 2)).flatten().tolist() == [1, 0.5, 0, 0]
    assert to_tokens(mask, (2, 2), (2, 2)).flatten().tolist() == [1, 0.5, 0, 0]
    assert to_tokens(mask, (4, 4), (1, 2), (2, 4, 1, 0)).flatten().tolist() == [0.5, 0.25]
    assert to_tokens(mask, (4, 4), (1, 1), (2, 2, 0, 2)).flatten().tolist() == [0.5]
    # 3 x 3 of it: the last row and column are repeated
    assert to_tokens(mask, (4, 4), (2, 2), (3, 3, 1, 1)).flatten().tolist() == [0.5, 0, 0, 0]
    grown = to_tokens(mask, (8, 8), (4, 4)).view(4, 4)
    assert grown[0].tolist() == pytest.approx([1, 1, 0.875, 0.125], abs=0.13)
    assert grown.shape == (4, 4) and grown[3].abs().sum() == 0


def test_prompts_are_known_by_uuid_and_ambiguous_ones_by_index():
    prompts = Prompts()
    prompts.learn(False, [{"uuid": "a"}, {"uuid": "b", "area": [2, 3, 4, 5]}])
    prompts.learn(True, [{"uuid": "c"}, {"uuid": "b"}])
    assert prompts.negative == {"a": False, "b": None, "c": True}
    assert prompts.areas == {"b": (2, 3, 4, 5)}
    options = {"cond_or_uncond": [0, 1, 1], "uuids": ["c", "b", "a"]}
    assert list(prompts.rows(6, 2, options)) == [
        Rows(slice(0, 2), 2, True, None),
        Rows(slice(2, 4), 2, True, (2, 3, 4, 5)),
        Rows(slice(4, 6), 2, False, None),
    ]
    assert list(prompts.rows(4, None, {})) == [Rows(slice(0, 4), 4, False, None)]
    # another pack that repeats the prompts alone is no error
    short = {"cond_or_uncond": [0, 0], "uuids": ["a"]}
    assert list(prompts.rows(2, 1, short)) == [Rows(slice(0, 2), 1, False, None)]
    assert list(prompts.rows(1, 3, {"cond_or_uncond": [0, 1]}))[0].rows == slice(0, 1)


class OwnGuider(CFGGuider):
    def predict_noise(self, *args, **kwargs):
        return None


@pytest.mark.parametrize(
    ("kind", "cfg", "options", "expected"),
    [
        (CFGGuider, 1.0, {}, False),
        (CFGGuider, 1.5, {}, True),
        (CFGGuider, 1.0, {"disable_cfg1_optimization": True}, True),
        (OwnGuider, 1.0, {}, True),
    ],
)
def test_at_cfg_1_the_hosts_guider_leaves_the_negative_prompt_out(kind, cfg, options, expected):
    guider = kind.__new__(kind)
    guider.conds, guider.cfg, guider.model_options = {"positive": [], "negative": []}, cfg, options
    assert runs_negative(guider) is expected
    guider.conds = {"positive": []}
    assert runs_negative(guider) is False


def test_a_guider_that_says_nothing_of_its_prompts_may_run_a_negative_one():
    guider = OwnGuider.__new__(OwnGuider)
    assert runs_negative(guider) is True


def test_a_mask_is_averaged_where_it_shrinks_and_interpolated_where_a_side_grows():
    wide = torch.zeros(1, 2, 8)
    wide[0, :, 1] = 1
    assert to_tokens(wide, (2, 2), (2, 2)).flatten().tolist() == [0.25, 0] * 2  # one side is equal
    assert to_tokens(wide, (1, 8), (1, 8)).flatten().tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert to_tokens(wide, (1, 2), (1, 2)).flatten().tolist() == [0.25, 0]
    assert to_tokens(wide, (4, 2), (4, 2)).flatten().tolist() == [0.5, 0] * 4
    found = to_tokens(wide, (1, 16), (1, 16)).flatten().tolist()
    assert found == [0, 0.25, 0.75, 0.75, 0.25] + [0] * 11


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_setting_that_is_no_number_is_named(value):
    with pytest.raises(ValueError, match=f"weight is {value}, expected a number"):
        use(weight=value)
    with pytest.raises(ValueError, match=f"start_at is {value}, expected a number"):
        use(window=Window(start_at=value))


def test_a_model_refuses_an_identity_of_another_width_or_family():
    check_fits(ME, FLUX, 3, "a.safetensors")
    for width in (2, 4):
        words = f"ID tokens of 3 values, but a.safetensors takes {width}"
        with pytest.raises(ValueError, match=words):
            check_fits(ME, FLUX, width, "a.safetensors")
    with pytest.raises(ValueError, match="made by PuLID-FLUX, but a.safetensors is PuLID-SDXL v1:"):
        check_fits(ME, SDXL_V1, 3, "a.safetensors")


PARTS = {"cond_or_uncond": [0, 1]}  # the positive prompt's rows twice, for two parts of the picture


def test_rows_of_a_layer_in_which_a_prompt_has_several_parts():
    found = list(Prompts().rows_in_layer(6, 4, 2, PARTS))
    assert [(each.rows, each.unconditional) for each in found] == [
        (slice(0, 4), False),
        (slice(4, 6), True),
    ]
    (found,) = Prompts().rows_in_layer(4, 4, 2, {"cond_or_uncond": [0, 0]})  # one part
    assert found == Rows(slice(0, 4), 2, False, None)


@pytest.mark.parametrize(
    ("found", "more"),
    [
        (5, {}),  # half a part
        (2, {}),  # the negative prompt alone
        (6, {"cond_or_uncond_couple": [0, 1, 0]}),  # another order
        (6, {"cond_or_uncond": [1, 1]}),  # nothing that could be repeated
    ],
)
def test_rows_of_a_layer_that_cannot_be_told_apart_are_an_error(found, more):
    with pytest.raises(RuntimeError, match=f"{found} .*4"):
        list(Prompts().rows_in_layer(found, 4, 2, {**PARTS, **more}))
