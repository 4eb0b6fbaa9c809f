"""The aligned crop: the authors' matrix and pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from places import GOLDEN
from pulid_pack.encoders import (
    align,
)
from standins.people import astronaut


def test_the_matrix_is_the_authors():
    manifest = json.loads((GOLDEN / "eva_manifest.json").read_text())
    matrix = align.crop_matrix(np.array(manifest["kps"]))
    np.testing.assert_allclose(matrix, manifest["affine"], rtol=0, atol=1e-3)


def test_the_crop_is_the_authors():
    manifest = json.loads((GOLDEN / "eva_manifest.json").read_text())
    crop = align.warp(astronaut(), align.crop_matrix(np.array(manifest["kps"])))
    expected = np.array(Image.open(GOLDEN / "aligned_face.png")).astype(int)
    assert abs(crop - expected).max() <= 4  # OpenCV's versions differ by so much, 4.11 the most


def test_beyond_the_photo_the_crop_is_the_authors_grey():
    crop = align.warp(np.zeros((4, 4, 3), np.uint8), np.array([[1.0, 0, 600], [0, 1, 600]]))
    assert crop[0, 0].tolist() == [132, 133, 135]


def test_points_that_coincide_are_refused():
    with pytest.raises(ValueError, match="cannot be aligned"):
        align.crop_matrix(np.full((5, 2), 7.0))
