"""Which blocks get identity, and to which tokens and rows it is added, by number."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.identity.run import SamplingRun
from pulid_pack.pulid_flux.blocks import FluxForward, IdentityBlock, add_identity, block_layers
from torch.nn.functional import layer_norm


def layer(x, gain, img, out=None):
    """Add gain times 2 x: stands for a folded layer, with its way of writing."""
    result = img + 2 * x * gain
    return result if out is None else out.copy_(result)


def test_flux_1s_blocks_and_layers():
    doubles = [("double_block", 2 * i, i) for i in range(10)]
    singles = [("single_block", 4 * i, 10 + i) for i in range(10)]
    found = block_layers(19, 38)
    assert found == block_layers(19, 38, 10) == doubles + singles
    assert all(type(layer) is int for _, _, layer in found)


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ((3, 5), [("double_block", 0, 0), ("double_block", 2, 1)] + [("single_block", 0, 2)]),
        ((1, 1, 10), [("double_block", 0, 0), ("single_block", 0, 10)]),
        ((0, 4, 0), [("single_block", 0, 0)]),
    ],
)
def test_blocks_of_other_depths(depths, expected):
    found = block_layers(*depths)
    assert found[: len(expected)] == expected
    assert len(found) == -(-depths[0] // 2) + -(-depths[1] // 4)


@pytest.mark.parametrize(
    ("start", "count", "parts"),
    [
        (0, 6, [(slice(0, 3), [1.0])]),  # all rows, all tokens
        (0, 6, [(slice(0, 3), [1.0, 0.5])]),  # two identities
        (0, 4, [(slice(0, 3), [1.0])]),  # references follow
        (2, 4, [(slice(0, 3), [1.0])]),  # text leads
        (1, 3, [(slice(1, 2), [0.5])]),  # both, and some rows
        (0, 6, [(slice(0, 1), [1.0]), (slice(2, 3), [0.25, 2.0])]),
        (0, 6, [(slice(1, 3), [1.0])]),
    ],
)
def test_identity_is_added_to_those_tokens_of_those_rows(start, count, parts):
    img = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    expected, before = img.clone(), img.clone()
    for rows, gains in parts:
        x = layer_norm(img[rows, start : start + count], (8,))
        expected[rows, start : start + count] += 2 * x * sum(gains)
    acting = [(rows, [(layer, torch.tensor(g)) for g in gains]) for rows, gains in parts]
    out = add_identity(img, start, count, acting)
    torch.testing.assert_close(out, expected)
    assert torch.equal(img, before) and out.data_ptr() != img.data_ptr()


def block(single: bool, text: int | None = None, acting: bool = True, before=None):
    forward = FluxForward(run=SamplingRun(()), image_tokens=4, text_tokens=text)
    parts = [(slice(0, 1), [(layer, torch.tensor(1.0))])] if acting else []
    return IdentityBlock(forward, parts, single, before), forward


def changed(out, img) -> list[int]:
    return (out["img"] != img).any(-1)[0].nonzero().flatten().tolist()


def test_a_double_block_adds_to_the_pictures_tokens_and_tells_the_texts_length():
    one, forward = block(single=False)
    img = torch.rand(1, 7, 8)
    out = one({}, {"original_block": lambda args: {"img": img, "txt": torch.rand(1, 3, 8)}})
    assert changed(out, img) == [0, 1, 2, 3] and forward.text_tokens == 3
    assert forward.run.inserted


@pytest.mark.parametrize(
    ("args", "extra", "text", "expected"),
    [
        ({"transformer_options": {"img_slice": [2, 9]}}, {}, 3, [2, 3, 4, 5]),
        ({}, {"transformer_options": {"img_slice": [1, 9]}}, 3, [1, 2, 3, 4]),
        ({"transformer_options": {}}, {}, 3, [3, 4, 5, 6]),
        ({}, {}, 3, [3, 4, 5, 6]),
        ({}, {}, None, []),  # nobody told where the text ends
    ],
)
def test_a_single_block_starts_after_the_text(args, extra, text, expected):
    one, forward = block(single=True, text=text)
    img = torch.rand(1, 9, 8)
    out = one(args, {"original_block": lambda args: {"img": img}, **extra})
    assert changed(out, img) == expected
    assert forward.run.inserted is bool(expected) and forward.text_tokens == text


def test_a_block_on_which_nothing_acts_is_the_block_and_another_packs_patch_runs():
    img = torch.rand(1, 9, 8)
    one, forward = block(True, 3, acting=False, before=lambda args, extra: {"img": img, "other": 1})
    out = one({}, {"original_block": None})
    assert out["img"] is img and out["other"] == 1 and not forward.run.inserted


@pytest.mark.parametrize(
    ("rows", "start", "count", "whole"),
    [
        (slice(0, 3), 0, 6, True),
        (slice(0, 2), 0, 6, False),
        (slice(1, 3), 0, 6, False),
        (slice(0, 3), 0, 5, False),
        (slice(0, 3), 1, 5, False),
    ],
)
def test_where_all_tokens_get_identity_nothing_is_copied(rows, start, count, whole):
    targets = []

    def recording(x, gain, img, out=None):
        targets.append(out)
        return layer(x, gain, img, out)

    img = torch.rand(3, 6, 8)
    add_identity(img, start, count, [(rows, [(recording, torch.tensor(1.0))])])
    assert [out is None for out in targets] == [whole]
