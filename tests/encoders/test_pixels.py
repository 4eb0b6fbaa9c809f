"""EVA-CLIP's pixels by hand: which classes are white, the grey, the normalisation."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.encoders.pixels import normalise, preprocess, whiten

# BiSeNet's classes: skin, brows, eyes, glasses, nose, mouth, lips and hair are the face
FACE = {1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 17}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_each_class_is_face_or_white():
    labels = torch.arange(19).view(1, 1, 19)
    out = whiten(torch.full((1, 1, 19, 3), 0.5), labels)
    assert {i for i in range(19) if out[0, 0, i, 0] != 1} == FACE
    assert out[0, 0, 1].tolist() == pytest.approx([0.5] * 3)


def test_grey_is_the_luma_of_rec_601_and_can_be_off():
    faces, skin = torch.tensor([0.2, 0.4, 0.8]).view(1, 1, 1, 3), torch.ones(1, 1, 1)
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.8
    assert whiten(faces, skin).flatten().tolist() == pytest.approx([grey] * 3)
    assert torch.equal(whiten(faces, skin, grayscale=False), faces)


def test_pixels_are_normalised_channel_by_channel():
    crops = torch.tensor([0.2, 0.4, 0.8]).expand(2, 6, 8, 3)
    out = normalise(crops, 4)
    assert out.shape == (2, 3, 4, 4)
    expected = [(v - m) / s for v, m, s in zip((0.2, 0.4, 0.8), MEAN, STD, strict=True)]
    assert out[1, :, 2, 1].tolist() == pytest.approx(expected, rel=1e-5)


def test_resizing_is_bicubic_with_antialias_and_is_not_clamped():
    step = torch.zeros(1, 8, 8, 3)
    step[:, :, 4:] = 1
    row = normalise(step, 4)[0, 0, 0] * STD[0] + MEAN[0]
    assert row.tolist() == pytest.approx([-0.0228, 0.0508, 0.9492, 1.0228], abs=0.02)
    assert row[0] < 0 and row[3] > 1


def test_preprocess_is_grey_unless_told_otherwise():
    faces, skin = torch.rand(1, 4, 4, 3), torch.ones(1, 4, 4)
    assert torch.equal(preprocess(faces, skin, 2), normalise(whiten(faces, skin), 2))
    assert torch.equal(preprocess(faces, skin, 2, False), normalise(faces, 2))
