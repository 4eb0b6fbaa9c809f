"""Regions of a mask, by number, and what is refused."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.identity.masks import REGIONS, in_region, to_tokens

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


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


def test_every_region_lies_in_the_picture_and_a_box_of_all_of_it_is_no_region():
    mask = torch.rand(1, 4, 4)
    assert in_region(mask, "box", "0, 0, 100, 100") is mask
    for left, top, width, height in REGIONS.values():
        assert 0 <= left < left + width <= 1 and 0 <= top < top + height <= 1
