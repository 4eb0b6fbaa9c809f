"""Identities: joining photos, files, mixtures, and what their nodes say."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pulid_pack.identity.files import (
    blend,
    checked_name,
    load_identity,
    save_identity,
)
from pulid_pack.identity.fusion import FUSIONS, FusionOptions, fuse, make_identity
from pulid_pack.identity.id_encoder import encode_each, encode_joint
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.masks import in_region, to_tokens
from pulid_pack.nodes.identities import PuLIDFluxBlendIdentities
from safetensors.torch import save_file
from standins.lab import person, small_pulid

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


def tokens(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(count))


def photos(count: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    draw = torch.Generator().manual_seed(9)
    hidden = tuple(torch.randn(count, 9, 128, generator=draw) for _ in range(5))
    return torch.randn(count, 576, generator=draw), hidden


def mean(x):
    return sum(x) / len(x)


def concat(x):
    return torch.cat(list(x))


def elementwise_max(x):
    return torch.stack(list(x)).max(0).values


def norm_id(x):
    lengths = [float(t.square().sum().sqrt()) for t in x]
    return sum(t * n for t, n in zip(x, lengths, strict=True)) / sum(lengths)


def max_token(x):
    rows = []
    for k in range(x.shape[1]):
        rows.append(max((t[k] for t in x), key=lambda row: float(row.norm())))
    return torch.stack(rows)


def auto_weight(x, low=0.25, high=1.25):
    rows = []
    for k in range(x.shape[1]):
        ordered = sorted((t[k] for t in x), key=lambda row: float(row.norm()))
        step = (high - low) / (len(ordered) - 1)
        rows.append(sum(row * (low + i * step) for i, row in enumerate(ordered)))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "formula", [mean, concat, elementwise_max, norm_id, max_token, auto_weight]
)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_fusion_is_its_formula(formula, count):
    mode = {"elementwise_max": "max"}.get(formula.__name__, formula.__name__)
    x = tokens(count)
    found = fuse(x, FusionOptions(mode, weight_max=1.25, weight_min=0.25))
    torch.testing.assert_close(found[0], formula(x), rtol=1e-5, atol=1e-5)  # float32 sums


def test_ranks_of_five_by_hand():
    """Norms 3, 1, 5, 2, 4: their ranks are 2, 0, 4, 1, 3, so the weights are half of that."""
    lengths = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0])
    x = torch.diag(lengths)[:, None]  # five photos of one token, each in its own direction
    found = fuse(x, FusionOptions("auto_weight", weight_max=2.0, weight_min=0.0))
    assert torch.equal(found[0, 0], lengths * torch.tensor([1.0, 0.0, 2.0, 0.5, 1.5]))


def test_train_weight_goes_towards_the_prior():
    aim = tokens(1)
    x = torch.cat((aim, aim * 0.5, aim * 0.25))
    start = fuse(x, FusionOptions("train_weight", train_steps=1))
    seen = []
    found = fuse(x, FusionOptions("train_weight", train_steps=300), lambda *step: seen.append(step))
    again = fuse(x, FusionOptions("train_weight", train_steps=300))
    assert torch.equal(found, again)
    assert seen[0] == (1, 300) and seen[-1] == (300, 300)
    # the result is the mean over the others of weight * photo + aim / others: weights that mix the
    # others into the aim give aim / 2 + aim / 2
    assert (found - aim).norm() < (start - aim).norm()
    assert torch.equal(
        fuse(x, FusionOptions("train_weight", train_steps=0)), x.mean(0, keepdim=True)
    )


@pytest.mark.parametrize("mode", FUSIONS)
def test_one_photo_is_itself_in_every_mode(mode):
    pulid, (id_cond, hidden) = small_pulid(), photos(1)
    found = make_identity(pulid.id_encoder, id_cond, hidden, FusionOptions(mode))
    expected = encode_each(pulid.id_encoder, id_cond, hidden)
    torch.testing.assert_close(found.id_tokens, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", FUSIONS)
def test_every_mode_encodes_and_leaves_the_random_states_alone(mode):
    pulid, (id_cond, hidden) = small_pulid(), photos(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = make_identity(pulid.id_encoder, id_cond, hidden, FusionOptions(mode, train_steps=5))
    assert found.id_tokens.shape == (1, 96 if mode == "concat" else 32, 96)
    assert found.uncond_id_tokens.shape == (1, 32, 96)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_joint_is_all_photos_side_by_side():
    pulid, (id_cond, hidden) = small_pulid(), photos(3)
    joint = encode_joint(pulid.id_encoder, id_cond, hidden)
    apart = encode_each(pulid.id_encoder, id_cond, hidden).mean(0, keepdim=True)
    assert (joint - apart).abs().max() > 1e-3
    turned = encode_joint(pulid.id_encoder, id_cond.flip(0), tuple(h.flip(0) for h in hidden))
    # attention does not know the photos' order
    torch.testing.assert_close(joint, turned, rtol=1e-3, atol=1e-4)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'median'.*joint, mean"):
        fuse(tokens(2), FusionOptions("median"))


def test_a_file_brings_back_every_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    preview = torch.rand(300, 500, 3)
    save_identity(person(1), path, preview=preview)
    found, picture = load_identity(path)
    assert torch.equal(found.id_tokens, person(1).id_tokens)
    assert torch.equal(found.uncond_id_tokens, person(1).uncond_id_tokens)
    assert picture.shape == (154, 256, 3) and picture.min() >= 0 and picture.max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_half_precision_is_half_the_size(tmp_path):
    for name, dtype in (("a", torch.float32), ("b", torch.float16)):
        save_identity(person(1), tmp_path / f"{name}.safetensors", dtype)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]
    found, _ = load_identity(tmp_path / "b.safetensors")
    torch.testing.assert_close(found.id_tokens, person(1).id_tokens, rtol=1e-3, atol=1e-3)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_identity(person(1), path)
    before = path.read_bytes()
    broken = Identity(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, device="meta"))
    with pytest.raises(Exception):  # noqa: B017  whatever the writer says
        save_identity(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


GOOD = {"id_tokens": torch.zeros(1, 32, 8), "uncond_id_tokens": torch.zeros(1, 32, 8)}
FORMAT = {"format": "pulid-flux-identity", "version": "1"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        (GOOD, {}, "not an identity file"),
        (GOOD, {**FORMAT, "version": "2"}, "version are pulid-flux-identity and 2"),
        ({"id_tokens": GOOD["id_tokens"]}, FORMAT, "'uncond_id_tokens' is missing"),
        ({**GOOD, "id_tokens": torch.zeros(32, 8)}, FORMAT, r"shape \[32, 8\]"),
        ({**GOOD, "id_tokens": torch.zeros(2, 32, 8)}, FORMAT, r"shape \[2, 32, 8\]"),
        ({**GOOD, "id_tokens": torch.zeros(1, 32, 9)}, FORMAT, "different widths"),
        ({**GOOD, "id_tokens": torch.zeros(1, 32, 8).int()}, FORMAT, "int32"),
        ({**GOOD, "id_tokens": torch.full((1, 32, 8), torch.nan)}, FORMAT, "not numbers"),
    ],
)
def test_a_file_that_is_no_identity_is_named(tmp_path, tensors, metadata, words):
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=words) as error:
        load_identity(path)
    assert str(path) in str(error.value)


def test_a_corrupt_file_is_named_with_its_size(tmp_path):
    path = tmp_path / "a.safetensors"
    save_identity(person(1), path)
    whole = path.read_bytes()
    for size in (0, 5, 50, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{size} bytes|{size:,} bytes"):
            load_identity(path)
    with pytest.raises(FileNotFoundError):
        load_identity(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "..", "a/b", "a\\b", "C:x", "a\0b", "x" * 300, "", "  ", ".x", "x.", "nul"],
)
def test_a_name_cannot_leave_the_folder(name):
    with pytest.raises(ValueError):
        checked_name(name)


@pytest.mark.parametrize("name", ["anna", "Anna 2", "ánna-ß", "安娜", "anna.safetensors"])
def test_ordinary_names_are_taken(name):
    assert checked_name(name) == name.removesuffix(".safetensors")


def test_blend_linear_is_the_weighted_mean():
    found = blend([person(1), person(2)], [1.0, 3.0], spherical=False)
    expected = 0.25 * person(1).id_tokens + 0.75 * person(2).id_tokens
    torch.testing.assert_close(found.id_tokens, expected)
    assert torch.equal(found.uncond_id_tokens, person(1).uncond_id_tokens)


def test_blend_spherical_keeps_the_length():
    a, b = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    found = blend([Identity(a, a), Identity(b, a)], [1.0, 1.0], spherical=True).id_tokens
    # half-way on the circle: 45 degrees, and the mean length 3
    torch.testing.assert_close(found, torch.full((1, 1, 2), 3 / 2**0.5))
    for share, expected in ((0.0, b), (1.0, a)):
        ends = blend([Identity(a, a), Identity(b, a)], [share, 1 - share], spherical=True)
        torch.testing.assert_close(ends.id_tokens, expected)


@pytest.mark.parametrize("spherical", [True, False])
def test_blend_of_an_identity_with_itself(spherical):
    found = blend([person(1)] * 3, [1.0, 2.0, 0.5], spherical)
    torch.testing.assert_close(found.id_tokens, person(1).id_tokens)


def test_blend_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="32 tokens of 96, 64 tokens of 96"):
        blend([person(1), person(2, tokens=64)], [1, 1], True)
    with pytest.raises(ValueError, match="add up to 0"):
        blend([person(1), person(2)], [1, -1], False)


def test_the_blend_node_takes_what_is_linked():
    out = PuLIDFluxBlendIdentities.execute(
        "linear",
        identity_1=person(1),
        weight_1=1.0,
        identity_2=person(2),
        weight_2=1.0,
        identity_4=person(3),
        weight_4=2.0,
    )
    expected = (person(1).id_tokens + person(2).id_tokens + 2 * person(3).id_tokens) / 4
    torch.testing.assert_close(out[0].id_tokens, expected)


# Regions


@pytest.mark.parametrize(
    ("region", "box", "columns", "rows"),
    [
        ("left half", "", [1, 1, 0, 0], [1, 1]),
        ("right half", "", [0, 0, 1, 1], [1, 1]),
        ("top half", "", [1, 1, 1, 1], [1, 0]),
        ("bottom half", "", [1, 1, 1, 1], [0, 1]),
        ("box", "25, 0, 50, 100", [0, 1, 1, 0], [1, 1]),
        ("box", " 37.5%,50 , 25,200", [0, 0.5, 0.5, 0], [0, 1]),
    ],
)
def test_a_region_is_its_share_of_each_pixel(region, box, columns, rows):
    part = in_region(torch.ones(1, 2, 4), region, box)
    expected = torch.tensor(rows)[:, None] * torch.tensor(columns).float()
    assert torch.equal(part[0], expected)
    # without a mask it has a size of its own, and is the same part of a latent's tokens
    tokens = to_tokens(in_region(None, region, box), (4, 8), (2, 4))
    torch.testing.assert_close(tokens[0, :, 0], expected.flatten())


def test_a_region_cuts_a_mask_and_the_whole_picture_none():
    mask = torch.rand(2, 6, 8)
    assert in_region(mask, "whole picture", "nonsense") is mask
    assert in_region(None, "whole picture", "") is None
    cut = in_region(mask, "left half", "")
    assert torch.equal(cut[..., :4], mask[..., :4]) and not cut[..., 4:].any()


@pytest.mark.parametrize(
    "box", ["", "1,2,3", "a,b,c,d", "0,0,0,50", "100,0,5,5", "-1,0,5,5", "nan,0,5,5"]
)
def test_a_box_that_is_none_is_named(box):
    with pytest.raises(ValueError, match="region_box is '.*expected left, top, width and height"):
        in_region(None, "box", box)


def test_an_unknown_region_is_named():
    with pytest.raises(ValueError, match="region is 'middle', expected one of whole picture, left"):
        in_region(None, "middle", "")
