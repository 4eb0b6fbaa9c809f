"""Several photos of one person become one identity: every mode by its formula."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pulid_pack.identity.fusion import FUSIONS, FusionOptions, fuse, make_identity
from pulid_pack.identity.id_encoder import encode_each, encode_joint
from standins.formulas import FORMULAS, HIGH, LOW
from standins.lab import small_pulid

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


def tokens(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(count))


def photos(count: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    draw = torch.Generator().manual_seed(9)
    hidden = tuple(torch.randn(count, 9, 128, generator=draw) for _ in range(5))
    return torch.randn(count, 576, generator=draw), hidden


@pytest.mark.parametrize("mode", FORMULAS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_fusion_is_its_formula(mode, count):
    x = tokens(count)
    found = fuse(x, FusionOptions(mode, weight_max=HIGH, weight_min=LOW))
    torch.testing.assert_close(found[0], FORMULAS[mode](x), rtol=1e-5, atol=1e-5)  # float32 sums


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
    # the authors put as many unconditional tokens side by side, "Enhanced" does not
    both = {"first-five": (42, 42), "id_mix": (96, 96), "concat": (96, 32)}.get(mode, (32, 32))
    assert found.id_tokens.shape == (1, both[0], 96)
    assert found.uncond_id_tokens.shape == (1, both[1], 96)
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


def test_settings_begin_as_the_nodes_do():
    assert FusionOptions() == FusionOptions("joint", 1.0, 0.0, 1000)


def test_train_weight_is_its_formula():
    """Token by token and photo by photo, by AdamW with the rate and decay of "Enhanced"."""
    x = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(2))
    chance = random.Random(42)
    with torch.inference_mode(False):
        aim, *others = x.clone()
        weights = [[torch.ones((), requires_grad=True) for _ in aim] for _ in others]
        every = sum(weights, [])
        optimizer = torch.optim.AdamW(every, lr=1e-3, weight_decay=1e-4)
        for one in every:
            one.grad = torch.zeros(())  # of a token that a step does not look at
        for _ in range(20):
            optimizer.zero_grad(set_to_none=False)
            for t in chance.sample(range(8), 2):
                mixed = sum(w[t] * photo[t] for w, photo in zip(weights, others, strict=True))
                ((aim[t] - mixed).square().sum().sqrt() / 2).backward()
            optimizer.step()
        learned = torch.tensor([[one.item() for one in row] for row in weights])
    expected = (learned[..., None] * x[1:] + x[:1] / 2).mean(0, keepdim=True)
    found = fuse(x, FusionOptions("train_weight", train_steps=20))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_train_weight_looks_at_one_token_at_least():
    two = torch.stack((torch.full((1, 4), 2.0), torch.ones(1, 4)))
    found = fuse(two, FusionOptions("train_weight", train_steps=1))
    # one step of 0.001 towards the photo of twos, and that photo's own part
    torch.testing.assert_close(found, torch.full((1, 1, 4), 3.001), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [FUSIONS[0], "median"])
def test_what_is_no_fusion_of_tokens_is_named(mode):
    """The first of the list is no sum of tokens: the encoder sees all photos at once."""
    with pytest.raises(ValueError, match=f"fusion is '{mode}', expected one of joint"):
        fuse(tokens(2), FusionOptions(mode))
