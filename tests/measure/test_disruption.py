"""How undisturbed: 0 for equal pictures, in proportion outside the face, blind inside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.measure.disruption import compare, outside_faces, outside_mask, semantic
from skimage.metrics import structural_similarity
from standins.people import astronaut

BOX = np.array([40.0, 30.0, 80.0, 70.0])
SIZE = (160, 200)
OUTSIDE = outside_faces(SIZE, [BOX])
PLACES = [(20, 130), (90, 140), (120, 40), (20, 175)]  # y, x of patches outside, all apart


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Return a photograph in 0..1."""
    return astronaut()[100:260, 150:350] / np.float32(255)


def painted(picture: np.ndarray, places: list[tuple[int, int]], side: int = 16) -> np.ndarray:
    """Return the picture with squares in its negative."""
    changed = picture.copy()
    for y, x in places:
        changed[y : y + side, x : x + side] = 1 - changed[y : y + side, x : x + side]
    return changed


def test_the_box_is_enlarged_by_half_of_itself_and_cut_at_the_edge():
    assert OUTSIDE[9].all() and OUTSIDE[:, 19].all() and OUTSIDE[90].all() and OUTSIDE[:, 100].all()
    assert not OUTSIDE[10:90, 20:100].any()
    assert OUTSIDE.sum() == 160 * 200 - 80 * 80
    at_edge = outside_faces((50, 50), [np.array([-5.0, -5.0, 15.0, 15.0])])
    assert at_edge.sum() == 2500 - 25 * 25
    two = outside_faces(SIZE, [BOX, BOX + 30])
    assert two.sum() == 160 * 200 - (2 * 80 * 80 - 50 * 50)


def test_equal_pictures_are_not_disturbed_at_all(picture):
    found = compare(picture, picture.copy(), OUTSIDE)
    assert (found.difference, found.structure) == (0.0, 0.0)
    assert found.outside == 1 - 80 * 80 / (160 * 200)
    blank = np.ones((64, 64, 3), np.float32)
    found = compare(blank, blank, outside_faces((64, 64), []))
    assert (found.difference, found.structure, found.outside) == (0.0, 0.0, 1.0)


def test_it_rises_in_proportion_to_the_changed_area():
    """On a picture of one texture everywhere, so that each patch changes as much."""
    tile = np.random.default_rng(0).random((4, 4, 3)).astype(np.float32)
    texture = np.tile(tile, (40, 50, 1))
    found = [compare(texture, painted(texture, PLACES[:n]), OUTSIDE) for n in range(5)]
    differences = [one.difference for one in found]
    expected = np.abs(1 - 2 * tile).mean() * 256 / OUTSIDE.sum()
    np.testing.assert_allclose(differences, expected * np.arange(5), rtol=1e-4)
    structures = [one.structure for one in found]
    assert structures[1] > 0.01
    np.testing.assert_allclose(structures, structures[1] * np.arange(5), rtol=0.1, atol=1e-6)


def test_without_a_face_structure_is_that_of_the_whole_picture_to_its_edges(picture):
    changed = painted(picture, [(0, 0)])
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    more = {"data_range": 1.0, "channel_axis": -1, "full": True}
    _, similar = structural_similarity(picture, changed, **wang, **more)
    found = compare(picture, changed, np.ones(SIZE, bool)).structure
    assert found == pytest.approx(1 - similar.mean(), abs=1e-5)


def test_a_change_inside_the_face_moves_nothing(picture):
    plain, changed = painted(picture, PLACES[:1]), picture.copy()
    before = compare(plain, changed, OUTSIDE)
    assert before.difference > 0
    changed = changed.copy()
    changed[10:90, 20:100] = np.random.default_rng(1).random((80, 80, 3))
    assert compare(plain, changed, OUTSIDE) == before
    changed[9, 50] = 1 - changed[9, 50]  # and one pixel further does
    assert compare(plain, changed, OUTSIDE).difference > before.difference


def test_the_scene_without_its_face_is_what_eva_clip_compares(face_files, picture):
    with torch.inference_mode():
        eva = load_eva_clip(next(face_files.glob("EVA02*")))
    inside = picture.copy()
    inside[10:90, 20:100] = 0
    assert semantic(eva, picture, inside, OUTSIDE) == pytest.approx(0, abs=1e-6)
    other = semantic(eva, picture, picture[::-1].copy(), OUTSIDE)
    assert 1e-4 < other < 2
    assert semantic(eva, picture, inside, np.zeros(SIZE, bool)) is None


@pytest.mark.parametrize("outside", [np.zeros((32, 32), bool)], ids=["nothing outside"])
def test_what_cannot_be_measured_is_none(outside):
    grey = np.full((32, 32, 3), 0.5, np.float32)
    found = compare(grey, grey, outside)
    assert (found.difference, found.structure, found.outside) == (None, None, 0.0)


def test_eight_pixels_have_a_difference_but_no_structure():
    grey = np.full((8, 8, 3), 0.5, np.float32)
    found = compare(grey, grey + 0.25, np.ones((8, 8), bool))
    assert (found.difference, found.structure) == (0.25, None)


def test_pictures_that_cannot_be_compared_are_errors(picture):
    with pytest.raises(ValueError, match="different sizes: 100x160 with identity, 200x160 without"):
        compare(picture, picture[:, :100], OUTSIDE)
    broken = picture.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        compare(picture, broken, OUTSIDE)


def test_a_mask_of_any_size_is_laid_over_the_picture():
    mask = np.zeros((4, 2))
    mask[:2, 1] = 1
    found = outside_mask(mask, (80, 60))
    assert found.sum() == 80 * 60 - 40 * 30
    assert not found[:40, 30:].any()
    for bad in (np.full((2, 2), np.nan), np.zeros((0, 4))):
        with pytest.raises(ValueError, match="face_mask has shape"):
            outside_mask(bad, SIZE)
