"""Tests of meaning: on trained weights, through the nodes, is it this person whom one sees?

Likeness is the cosine by the judge, which no loss saw, of photo and picture; the mean of twelve
people (or six) whom nobody was trained on, each with noise and the prompt of somebody else.
Everything is seeded; bounds are about half of what was measured, since other machines add in
another order.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import comfy.sd
import folder_paths
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras import nodes_easycache
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from pulid_pack.encoders.faces import load_face_analysis
from pulid_pack.micro_world.people import WORDS, on_another_day
from pulid_pack.micro_world.prompts import read
from pulid_pack.micro_world.renderer import photo
from pulid_pack.nodes.identities import (
    PuLIDFluxBlendIdentities,
    PuLIDFluxLoadIdentity,
    PuLIDFluxSaveIdentity,
)
from pulid_pack.nodes.measure import PuLIDMeasureIdentity
from standins.drawn import JUDGE_PACK
from standins.drawn_studio import PEOPLE, PHOTO, SEED, Studio, alike, open_studio, painted, sit
from standins.models import FLUX, PARSING
from torch.nn.functional import avg_pool2d, cosine_similarity, interpolate

FEW = 6  # of them, where each takes long


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Studio:
    with torch.inference_mode():
        return open_studio(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def sitting(studio):
    with torch.inference_mode():
        return sit(studio)


@pytest.fixture(scope="module")
def usual(studio, sitting) -> float:
    """Return the likeness at weight 1."""
    with torch.inference_mode():
        return alike(studio, sitting, studio.apply)


def own_and_other(studio, sitting, pictures, mine, others) -> tuple[float, float]:
    """Return how alike pictures are to these people, and to those."""
    vectors = studio.vectors(pictures)
    return tuple(
        float(cosine_similarity(vectors, sitting.vectors[rows], dim=-1).mean())
        for rows in (mine, others)
    )


def test_likeness_rises_with_the_weight(studio, sitting, usual):
    rising = [
        alike(studio, sitting, partial(studio.apply, weight=weight)) for weight in (0.0, 0.4, 0.7)
    ]
    assert rising[0] < 0.15
    for low, high in zip(rising, [*rising[1:], usual], strict=True):
        assert high - low > 0.03


def test_likeness_falls_the_later_the_identity_starts(studio, sitting):
    falling = [
        alike(studio, sitting, partial(studio.apply, start_at=start), steps=8)
        for start in (0.0, 0.25, 0.5, 0.75)
    ]
    for early, late in zip(falling, falling[1:], strict=False):
        assert early - late > 0.03


def test_the_first_half_of_the_steps_decides_who_it_is(studio, sitting):
    first, second = (
        alike(studio, sitting, partial(studio.apply, **window), steps=8)
        for window in ({"end_at": 0.5}, {"start_at": 0.5})
    )
    assert first - second > 0.015


def half(side: str) -> torch.Tensor:
    mask = torch.zeros(1, 64, 128)
    mask[..., slice(0, 64) if side == "left" else slice(64, 128)] = 1
    return mask


@pytest.mark.parametrize(
    "places",
    [
        [{"attn_mask": half("left")}, {"attn_mask": half("right")}],
        [{"region": "left half"}, {"region": "right half"}],
    ],
    ids=["masks", "regions"],
)
def test_two_people_are_each_recognised_in_their_half_and_not_in_the_other(studio, sitting, places):
    pictures = []
    for left in range(0, PEOPLE, 2):
        model = studio.flux
        for who, place in zip((left, left + 1), places, strict=True):
            model = studio.apply(sitting.identities[who], model=model, **place)
        text = f"{sitting.prompts[left]}, and {sitting.prompts[left + 1]}"
        pictures.append(studio.paint(model, text, left, wide=2))
    lefts, rights = torch.cat(pictures).chunk(2, dim=-1)
    first, second = list(range(0, PEOPLE, 2)), list(range(1, PEOPLE, 2))
    own = [
        own_and_other(studio, sitting, lefts, first, second),
        own_and_other(studio, sitting, rights, second, first),
    ]
    for mine, other in own:
        assert mine > 0.25 and mine - other > 0.25


def test_joint_photos_beat_one_bad_photo(studio, sitting):
    """The bad one is dark and blurred, the eyes behind sunglasses."""
    few = sitting.first(FEW)
    day = on_another_day(few.people, SEED + 7)
    words = day.words.clone()
    words[:, list(WORDS).index("glasses")] = WORDS["glasses"].index("sunglasses")
    small = avg_pool2d(photo(replace(day, words=words), PHOTO), 6, ceil_mode=True)
    bad = (0.6 * interpolate(small, (PHOTO, PHOTO), mode="bilinear")).movedim(1, -1)
    found = {}
    for name, more in (("bad", False), ("joint", True)):
        pairs = zip(bad, few.photos, strict=True)
        given = [torch.cat([b[None], one][: 1 + more]) for b, one in pairs]
        identities = iter(studio.identity(photos) for photos in given)
        found[name] = alike(studio, few, lambda _, own=identities: studio.apply(next(own)))
    assert found["joint"] - found["bad"] > 0.1


def test_a_blend_lies_between_its_two(studio, sitting):
    turned = [*sitting.identities[1:], sitting.identities[0]]
    pairs = zip(sitting.identities, turned, strict=True)
    blends = iter(
        PuLIDFluxBlendIdentities.execute(
            "spherical", identity_1=a, weight_1=1.0, identity_2=b, weight_2=1.0
        )[0]
        for a, b in pairs
    )
    mixed = painted(studio, sitting, lambda _: studio.apply(next(blends)))
    alone = painted(studio, sitting, studio.apply)
    rows = list(range(PEOPLE))
    next_one = [*rows[1:], 0]
    own, other = own_and_other(studio, sitting, mixed, rows, next_one)
    alone_own, alone_other = own_and_other(studio, sitting, alone, rows, next_one)
    assert alone_own - own > 0.1 and own - alone_other > 0.1
    assert alone_own - other > 0.1 and other - alone_other > 0.1


def test_true_cfg_brings_the_person_out_against_a_negative_prompt_without(studio, sitting):
    """Guidance multiplies what the rows of both prompts differ in.

    The zero identity is no stranger to this adapter: it makes the face that all people share.
    """
    found = {
        name: alike(studio, sitting, partial(studio.apply, weight=0.5, unconditional=name), cfg=1.5)
        for name in ("none", "zero identity", "same identity")
    }
    assert found["none"] - found["same identity"] > 0.03
    assert found["zero identity"] - found["same identity"] > 0.02


def test_a_saved_identity_equals_the_photos(studio, sitting, tmp_path, monkeypatch):
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        "pulid_identities",
        ([str(tmp_path)], {".safetensors"}),
    )
    PuLIDFluxSaveIdentity.execute(sitting.identities[0], "person", False, "float32")
    loaded = PuLIDFluxLoadIdentity.execute("person.safetensors")[0]
    fresh, again = (
        studio.paint(studio.apply(one), sitting.prompts[0], 0)
        for one in (sitting.identities[0], loaded)
    )
    assert torch.equal(fresh, again)


@pytest.fixture
def narrow(studio, request):
    """Return what loads the base with weights of a dtype, computing in bfloat16."""
    if request.config.getoption("--switches"):
        pytest.skip("casts under dynamic VRAM are a card's: house/test_nvidia.py")

    def load(dtype):
        flux = comfy.sd.load_diffusion_model(str(studio.models / FLUX), {"dtype": dtype})
        flux.set_model_compute_dtype(torch.bfloat16)
        return flux

    return load


def test_a_base_in_bfloat16_keeps_likeness(studio, sitting, usual, narrow):
    flux = narrow(torch.bfloat16)
    assert abs(alike(studio, sitting, partial(studio.apply, model=flux)) - usual) < 0.01


def test_a_base_in_fp8_shows_the_person(studio, sitting, usual, narrow):
    """Norms and biases are narrow too; test_shipped asks more people what that costs."""
    flux = narrow(torch.float8_e4m3fn)
    assert abs(alike(studio, sitting, partial(studio.apply, model=flux)) - usual) < 0.06


def test_easycache_keeps_likeness(studio, sitting):
    """What it changes when it leaves out steps, it changes without identity too."""
    few, ran = sitting.first(FEW), []

    def count(executor, *args, **kwargs):
        ran.append(1)
        return executor(*args, **kwargs)

    def cached(identity, threshold, weight):
        limits = (threshold, 0.15, 0.95, False)
        model = studio.apply(identity, weight)
        model = nodes_easycache.EasyCacheNode.execute(model, *limits)[0]
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "after the cache", count)
        return model

    likeness, changed = {}, {}
    for weight in (1.0, 0.0):
        pictures = {}
        for threshold in (0.0, 0.015):
            ran.clear()
            how = partial(cached, threshold=threshold, weight=weight)
            pictures[threshold] = painted(studio, few, how, steps=32)
            assert (len(ran) < 32 * FEW) == (threshold > 0)
        changed[weight] = float((pictures[0.015] - pictures[0.0]).abs().mean())
        likeness[weight] = [
            float(cosine_similarity(studio.vectors(one), few.vectors, dim=-1).mean())
            for one in pictures.values()
        ]
    every, some = likeness[1.0]
    assert some > every - 0.08
    assert 0 < changed[1.0] < 1.25 * changed[0.0]


def test_compile_keeps_likeness(studio, sitting, usual):
    def compiled(identity):
        model = studio.apply(identity)
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model=model, backend="eager", options=options)
        return model

    torch._dynamo.reset()
    found = alike(studio, sitting, compiled)
    torch._dynamo.reset()
    assert abs(found - usual) < 0.01


def test_tiles_keep_likeness(studio, sitting):
    """Two tiles in one call, with true CFG's rows: each tile shows the person."""

    def in_tiles(run, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        twice = {k: torch.cat([v] * 2) if torch.is_tensor(v) else v for k, v in c.items()}
        out = run(torch.cat([x[..., :16], x[..., 16:]]), torch.cat([t] * 2), **twice)
        return torch.cat(out.chunk(2), -1)

    def tiled(identity):
        model = studio.apply(identity)
        model.set_model_unet_function_wrapper(in_tiles)
        return model

    pictures = painted(studio, sitting, tiled, wide=2, cfg=1.5)
    found = [
        float(cosine_similarity(studio.vectors(one), sitting.vectors, dim=-1).mean())
        for one in pictures.chunk(2, -1)
    ]
    assert min(found) > 0.25


def test_a_reference_keeps_likeness(studio, sitting, usual):
    """Kontext's reference beside the picture; a small one, since this FLUX never saw any."""
    small = sitting.photos[1].movedim(-1, 1)[..., ::8, ::8]
    cond = {"reference_latents": [studio.world.codec.encode(small)]}
    cond["reference_latents_method"] = "index"
    without, found = (
        alike(studio, sitting, partial(studio.apply, weight=weight), **cond)
        for weight in (0.0, 1.0)
    )
    assert without < 0.15
    assert abs(found - usual) < 0.1


def test_the_prompt_is_still_heard(studio, sitting):
    """Words that the reader reads back, with identity and without."""
    people = [read(prompt) for prompt in sitting.prompts]
    shares = []
    for weight in (0.0, 1.0):
        lines = studio.world.reader.lines(
            painted(studio, sitting, partial(studio.apply, weight=weight))
        )
        right = [
            float(own[n].argmax() == one.words[0, line])
            for n, one in enumerate(people)
            for line, own in enumerate(lines)
            if one.said[0, line]
        ]
        shares.append(sum(right) / len(right))
    assert shares[1] > shares[0] - 0.1


def test_measure_identity_says_the_same(studio, sitting, usual):
    """The node's judge is the drawn one's ONNX file, read by insightface."""
    models = studio.models
    judge = load_face_analysis(models / JUDGE_PACK, "auto", models / PARSING)
    pictures = painted(studio, sitting, studio.apply)
    pictures = interpolate(pictures, scale_factor=2, mode="bicubic").clamp(0, 1).movedim(1, -1)
    found = [
        PuLIDMeasureIdentity.execute(judge, pictures[n : n + 1], "one person", reference=one)
        for n, one in enumerate(sitting.photos)
    ]
    there = [out[0] for out in found if out[2] == 0]
    assert len(there) >= 0.75 * PEOPLE
    assert abs(sum(there) / len(there) - usual) < 0.15  # a doubted face is no number there
