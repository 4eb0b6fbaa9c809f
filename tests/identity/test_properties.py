"""Properties that hold for any mask, window, weight, size, batch, token count and name."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pulid_pack.identity.blending import blend
from pulid_pack.identity.files import checked_name
from pulid_pack.identity.fusion import FUSIONS, FusionOptions, fuse
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.masks import normalise_mask, to_tokens
from pulid_pack.identity.rows import Prompts
from pulid_pack.identity.window import CURVES, Window
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from standins.lab import person, small_flux, small_pulid

# derandomised: a test that failed here fails again everywhere
settings.register_profile(
    "pack",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pack")

SEEDS = st.integers(0, 2**32 - 1)


def draw(shape, seed: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


# Masks


@given(st.lists(st.integers(0, 9), max_size=5), SEEDS)
@example([0, 3, 4], 0)
@example([0, 0], 0)
@example([], 0)
@example([7], 0)
def test_a_mask_becomes_a_batch_in_0_to_1_or_is_refused(shape, seed):
    mask = draw(shape, seed)
    before = mask.clone()
    if len(shape) < 2 or 0 in shape:
        with pytest.raises(ValueError, match="attn_mask has shape"):
            normalise_mask(mask)
        return
    found = normalise_mask(mask)
    assert torch.equal(mask, before)
    if found is None:
        assert (mask >= 1).all()
        return
    assert found.shape == (math.prod(shape[:-2]), *shape[-2:])
    assert found.min() >= 0 and found.max() <= 1


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(1, 9), st.integers(1, 9))
def test_a_mask_with_no_numbers_is_refused(value, height, width):
    mask = torch.zeros(1, height, width)
    mask[0, -1, -1] = value
    with pytest.raises(ValueError, match="not numbers"):
        normalise_mask(mask)


SIDES = st.integers(1, 40)
PATCHES = st.integers(1, 4)


def grid(patch: int, *sides: int) -> tuple[int, ...]:
    return tuple(math.ceil(side / patch) for side in sides)


@given(st.integers(1, 4), SIDES, SIDES, SIDES, SIDES, PATCHES, SEEDS)
def test_a_mask_gives_each_token_a_share(count, h, w, lh, lw, patch, seed):
    mask = draw((count, h, w), seed).clamp(0, 1)
    tokens = to_tokens(mask, (lh, lw), grid(patch, lh, lw))
    assert tokens.shape == (count, math.ceil(lh / patch) * math.ceil(lw / patch), 1)
    assert torch.isfinite(tokens).all() and tokens.min() >= 0 and tokens.max() <= 1


@given(SIDES, SIDES, PATCHES, SEEDS, st.data())
def test_an_area_gets_its_own_part_of_the_mask(lh, lw, patch, seed, data):
    height, width = data.draw(st.integers(1, lh)), data.draw(st.integers(1, lw))
    top, left = data.draw(st.integers(0, lh - height)), data.draw(st.integers(0, lw - width))
    mask = draw((2, lh, lw), seed).clamp(0, 1)
    tokens = to_tokens(mask, (lh, lw), grid(patch, height, width), (height, width, top, left))
    cut = mask[:, top : top + height, left : left + width]
    assert torch.equal(tokens, to_tokens(cut, (height, width), grid(patch, height, width)))


@given(SIDES, SIDES, SIDES, SIDES, PATCHES, st.floats(0, 1, width=32))
def test_an_even_mask_stays_even(h, w, lh, lw, patch, value):
    tokens = to_tokens(torch.full((1, h, w), value), (lh, lw), grid(patch, lh, lw))
    torch.testing.assert_close(tokens, torch.full_like(tokens, value), atol=1e-5, rtol=0)


@given(SIDES, SIDES, PATCHES, SEEDS)
def test_a_mask_and_its_opposite_add_up_to_one(lh, lw, patch, seed):
    mask = draw((1, 17, 23), seed).clamp(0, 1)
    sides = [to_tokens(m, (lh, lw), grid(patch, lh, lw)) for m in (mask, 1 - mask)]
    torch.testing.assert_close(sum(sides), torch.ones_like(sides[0]), atol=1e-5, rtol=0)


# Windows

FRACTIONS = st.floats(0, 1)
STEPS = st.integers(-1, 60)
WINDOWS = st.builds(Window, FRACTIONS, FRACTIONS, STEPS, STEPS, st.sampled_from(list(CURVES)))
SHIFTS = st.sampled_from([1.0, 1.15, 3.0])


def sigma_of(shift: float):
    """Return FLUX's percent_to_sigma: time shifted towards the noise."""

    def percent_to_sigma(percent: float) -> float:
        if percent <= 0:
            return 1.0
        time = 1 - percent
        return math.exp(shift) / (math.exp(shift) + (1 / time - 1)) if time > 0 else 0.0

    return percent_to_sigma


def schedule(steps: int, shift: float) -> list[float]:
    return [sigma_of(shift)(i / steps) for i in range(steps)] + [0.0]


@given(WINDOWS, st.integers(1, 40), SHIFTS)
def test_a_window_is_one_stretch_of_steps_with_factors_in_0_to_1(window, steps, shift):
    sigmas = schedule(steps, shift)
    opened = window.resolve(sigma_of(shift), sigmas)
    inside = [opened.opens <= -s < opened.closes for s in sigmas[:-1]]
    factors = [opened.factor(s) for s in sigmas[:-1]]
    assert all(0 <= f <= 1 for f in factors)
    assert all(f == 0 for f, i in zip(factors, inside, strict=True) if not i)
    changes = sum(a != b for a, b in zip([False, *inside], [*inside, False], strict=True))
    assert changes in (0, 2)
    if window.never_opens:
        assert not any(inside)
    elif window.start_step < 0 and window.end_step < 0:
        assert any(inside)  # not empty: it acts in at least one step
    assert any(inside) != opened.never
    if window.curve == "constant":
        assert all(f == 1 for f, i in zip(factors, inside, strict=True) if i)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40), SHIFTS)
def test_steps_mean_themselves(start, end, steps, shift):
    sigmas = schedule(steps, shift)
    opened = Window(start_step=start, end_step=end).resolve(sigma_of(shift), sigmas)
    found = [i for i, s in enumerate(sigmas[:-1]) if opened.factor(s)]
    assert found == list(range(start, min(end, steps)))


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), SHIFTS)
def test_a_fraction_means_its_step(steps, first, last, shift):
    assume(first <= steps and last <= steps)
    window = Window(first / steps, last / steps)
    opened = window.resolve(sigma_of(shift), schedule(steps, shift))
    found = [i for i, s in enumerate(schedule(steps, shift)[:-1]) if opened.factor(s)]
    assert found == list(range(first, last))


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_in_a_rising_run_a_fraction_is_the_place_in_the_run(steps, first, last):
    """Turning a picture back into noise, the first step is the one with the least noise."""
    assume(first <= steps and last <= steps)
    rising = schedule(steps, 1.0)[::-1]
    opened = Window(first / steps, last / steps).resolve(sigma_of(1.0), rising)
    found = [i for i, s in enumerate(rising[:-1]) if opened.factor(s)]
    assert found == list(range(first, last))


@pytest.mark.parametrize(
    ("window", "sigmas", "expected"),
    [
        (Window(0.0, 0.1), [1, 0.75, 0.5, 0.25, 0], [0]),  # rounds to nothing, is not empty
        (Window(0.55, 0.56), [1, 0.75, 0.5, 0.25, 0], [2]),
        (
            Window(0.0, 0.5),
            [1.6, 1.2, 0.8, 0.4, 0],
            [0, 1, 2],
        ),  # noise above 1: 0 is the first step
        (Window(0.2, 1.0), [0.5, 0.25, 0], [0, 1]),  # begun before this run
        (Window(0.0, 0.3), [0.5, 0.25, 0], []),  # over before this run
        (Window(0.8, 1.0), [1, 0.75, 0.5], []),  # begins after it
        (Window(start_step=1, end_at=0.01), [1, 0.75, 0.5], []),
        (Window(start_at=0.9, end_step=1), [1, 0.75, 0.5], []),
    ],
    ids=str,
)
def test_windows_beside_the_run(window, sigmas, expected):
    opened = window.resolve(lambda fraction: 1 - fraction, sigmas)
    assert [i for i, s in enumerate(sigmas[:-1]) if opened.factor(s)] == expected
    assert opened.never == (not expected)


@given(WINDOWS, FRACTIONS, SHIFTS)
def test_without_a_schedule_the_fractions_are_exact(window, percent, shift):
    opened = window.resolve(sigma_of(shift), [])
    sigma = sigma_of(shift)(percent)
    factor = opened.factor(sigma)
    assert 0 <= factor <= 1
    low, high = sigma_of(shift)(window.end_at), sigma_of(shift)(window.start_at)
    if not high >= sigma > low:
        assert factor == 0


# Several photos

TOKENS = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 9))


@given(TOKENS, st.sampled_from(FUSIONS[1:]), st.integers(0, 5), SEEDS)
def test_fusion_gives_one_set_of_tokens(shape, mode, train_steps, seed):
    tokens = draw(shape, seed)
    before, state = tokens.clone(), torch.random.get_rng_state()
    fused = fuse(tokens, FusionOptions(mode, train_steps=train_steps))
    more = {"concat": shape[1], "id_mix": shape[1], "first-five": min(5, shape[1])}.get(mode, 0)
    count = shape[1] + (shape[0] - 1) * more
    assert fused.shape == (1, count, shape[2])
    assert torch.isfinite(fused).all() and not fused.requires_grad
    assert torch.equal(tokens, before) and torch.equal(torch.random.get_rng_state(), state)


@given(TOKENS, st.sampled_from(["mean", "max", "norm_id"]), SEEDS)
def test_the_order_of_photos_does_not_matter(shape, mode, seed):
    tokens = draw(shape, seed)
    fused = [fuse(t, FusionOptions(mode)) for t in (tokens, tokens.flip(0))]
    torch.testing.assert_close(*fused)


@given(st.integers(1, 4), st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.booleans(), SEEDS)
def test_a_blend_has_the_size_of_its_parts_or_is_refused(count, weights, spherical, seed):
    identities = [Identity(draw((1, 6, 5), seed + i), draw((1, 6, 5), 0)) for i in range(count)]
    weights = weights[:count]
    if abs(sum(weights)) < 1e-6:
        with pytest.raises(ValueError, match="add up to 0"):
            blend(identities, weights, spherical)
        return
    mixed = blend(identities, weights, spherical)
    assert mixed.id_tokens.shape == mixed.uncond_id_tokens.shape == (1, 6, 5)
    assert torch.isfinite(mixed.id_tokens).all()


# Batches


AREAS = st.sampled_from([(2, 2, 0, 0), (2, 2, 0, 2)])


@given(st.lists(st.integers(0, 1), max_size=6), st.integers(1, 4), st.integers(1, 3), st.data())
def test_every_row_is_its_prompts_also_where_tiles_repeat_the_batch(kinds, pictures, tiles, data):
    uuids = [data.draw(st.sampled_from("abc")) for _ in kinds]
    negative = data.draw(st.dictionaries(st.sampled_from("abc"), st.none() | st.booleans()))
    areas = data.draw(st.dictionaries(st.sampled_from("abc"), AREAS))
    options = {"cond_or_uncond": kinds, "uuids": uuids} if kinds else {}
    chunks = max(1, len(kinds))
    total = pictures * chunks * tiles
    stretches = list(Prompts(negative, areas).rows(total, pictures, options))
    rows = [(row, s) for s in stretches for row in range(s.rows.start, s.rows.stop)]
    assert [row for row, _ in rows] == list(range(total))
    what = [(s.unconditional, s.area) for s in stretches]
    assert all(a != b for a, b in zip(what, what[1:], strict=False))
    for row, stretch in rows:
        assert stretch.pictures == pictures
        unconditional, uuid = False, None
        if kinds:
            chunk = row // pictures % chunks
            uuid = uuids[chunk]
            known = negative.get(uuid)
            unconditional = kinds[chunk] == 1 if known is None else known
        assert (stretch.unconditional, stretch.area) == (unconditional, areas.get(uuid))


def test_the_rows_of_three_tiles_at_cfg_are_u_c_u_c_u_c():
    """The kind of TiledDiffusion: cond_or_uncond stays [1, 0] while the batch is tripled."""
    stretches = Prompts().rows(6, 1, {"cond_or_uncond": [1, 0]})
    assert [s.unconditional for s in stretches] == [True, False] * 3


def test_a_batch_of_another_size_than_the_runs_is_divided():
    stretches = list(Prompts().rows(6, 4, {"cond_or_uncond": [1, 0]}))
    assert [(s.rows, s.unconditional) for s in stretches] == [
        (slice(0, 3), True),
        (slice(3, 6), False),
    ]


# Names


@given(st.text(max_size=40) | st.text(alphabet="./\\: aC0ON\0ü.", max_size=12))
@example("../x")
@example("..")
@example("\ud800")
@example("CON .txt")
@example("a/../../b")
@example("x.safetensors.safetensors")
@settings(max_examples=300)
def test_a_name_is_refused_or_stays_in_its_folder(name):
    try:
        found = checked_name(name)
    except ValueError as error:
        assert type(error) is ValueError
        assert "cannot be the name" in str(error) or "reserved" in str(error)
        return
    file = f"{found}.safetensors"
    assert found and len(file.encode()) <= 255
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind("folder") / file
        assert path.parent == kind("folder") and path.name == file and not path.is_absolute()
    assert (Path("/folder") / file).resolve().parent == Path("/folder").resolve()
    assert checked_name(file) == found  # the picker shows the file's name


# Weights


@pytest.mark.parametrize("name", ["weight", "double_weight", "single_weight", "start_at", "end_at"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_setting_that_is_no_number_is_refused(name, value):
    """The API lets NaN through any range; the picture would be black."""
    given = {"weight": 1.0, "start_at": 0.0, "end_at": 1.0} | {name: value}
    model = small_flux(depth=1, depth_single=1)
    with pytest.raises(ValueError, match=f"^{name} is (nan|inf), expected a number"):
        PuLIDFluxApplyIdentity.execute(model, small_pulid(), person(1), **given)
