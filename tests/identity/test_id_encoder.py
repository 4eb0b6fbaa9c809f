"""The ID encoder: built from nothing, the released file's sizes, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from places import GOLDEN
from pulid_pack.identity.id_encoder import (
    encode_each,
    encode_joint,
    encode_zeros,
    load_id_encoder,
    nobody,
)
from pulid_pack.identity.id_former import IDFormer, Sizes, read_sizes
from standins.lab import TOKEN_WIDTH, small_pulid

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


def test_an_id_encoder_can_be_built_from_nothing():
    """What training makes has the keys and sizes of a file, and loads like one."""
    sizes = Sizes(64, 128, 96, 5, 7, 3, 40, 50, 30, 56)
    made = IDFormer(sizes)
    state_dict = {f"pulid_encoder.{k}": v.detach() for k, v in made.state_dict().items()}
    encoder = load_id_encoder(state_dict, "pulid_encoder.", "made", "made", "")
    assert encoder.patcher.model.sizes == sizes
    hidden = [torch.randn(2, 9, 30) for _ in range(5)]
    id_cond = torch.randn(2, 4, 50)
    expected = made(id_cond, hidden)
    assert expected.shape == (2, 7, 40)
    assert torch.equal(encoder.patcher.model(id_cond, hidden), expected)


def test_the_released_files_sizes_are_the_defaults():
    shapes = {k: v.shape for k, v in IDFormer(Sizes(), device="meta").state_dict().items()}
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    released = {k: torch.Size(v) for k, v in manifest["idformer"]["shapes"].items()}
    assert {f"pulid_encoder.{k}": v for k, v in shapes.items()} == released


def test_face_features_of_another_width():
    pulid = small_pulid()
    with pytest.raises(ValueError, match="takes face features of 576 values.*give 500 and 128"):
        encode_each(
            pulid.id_encoder, torch.zeros(1, 500), tuple(torch.zeros(1, 9, 128) for _ in range(5))
        )


def features(count: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return what ``count`` photos would give a small ID encoder."""
    draw = torch.Generator().manual_seed(1)
    hidden = tuple(torch.randn(count, 9, 128, generator=draw) for _ in range(5))
    return torch.randn(count, 576, generator=draw), hidden


def test_the_zero_identity_is_one_photo_of_zeros_and_made_once():
    encoder, hidden = small_pulid().id_encoder, features(3)[1]
    zeros = [torch.zeros(1, 9, 128) for _ in range(5)]
    expected = encoder.patcher.model(torch.zeros(1, 1, 576), zeros)
    found = encode_zeros(encoder, hidden)
    assert torch.equal(found, expected)
    assert list(encoder.zero_tokens) == [9]  # vision tokens
    assert encode_zeros(encoder, hidden) is found
    assert dataclasses.replace(encoder, zero_tokens={}) == encoder


def test_photos_stand_side_by_side_or_one_by_one():
    encoder, (id_cond, hidden) = small_pulid().id_encoder, features(2)
    model = encoder.patcher.model
    for i, found in enumerate(encode_each(encoder, id_cond, hidden)):
        expected = model(id_cond[i][None, None], [h[i : i + 1] for h in hidden])
        torch.testing.assert_close(found[None], expected)
    together = [torch.cat((h[0], h[1]))[None] for h in hidden]
    assert torch.equal(encode_joint(encoder, id_cond, hidden), model(id_cond[None], together))


def test_nobody_has_no_tokens():
    found = nobody(small_pulid().id_encoder)
    assert found.id_tokens.shape == found.uncond_id_tokens.shape == (1, 0, TOKEN_WIDTH)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("layers.0.0.to_q.weight", (100, 64)),  # heads of 64
        ("id_embedding_mapping.6.weight", (65, 56)),  # whole tokens of 64
        ("layers.5.0.to_q.weight", (128, 64)),  # as many layers for each of five hidden states
    ],
)
def test_a_size_that_no_encoder_has_names_its_tensor(key, shape):
    made = IDFormer(Sizes(64, 128, 96, 5, 7, 3, 40, 50, 30, 56), device="meta")
    shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
    assert read_sizes(shapes) == made.sizes
    with pytest.raises(KeyError, match=key):
        read_sizes({**shapes, key: torch.Size(shape)})
