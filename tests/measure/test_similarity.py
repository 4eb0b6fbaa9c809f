"""How alike: cosines, people found by the best assignment, and photographs of real people."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pulid_pack.encoders.recognition import recognise_all
from pulid_pack.measure.similarity import (
    Likeness,
    bounds,
    cosines,
    homework,
    match,
    mean_similarity,
    person,
    range_of,
    unit,
)
from standins.people import astronaut, group

X, Y, Z = np.eye(3)


def versions(photo: np.ndarray) -> dict[str, np.ndarray]:
    """Return what may happen to a photo without another person coming of it."""
    picture = Image.fromarray(photo)
    return {
        "mirrored": photo[:, ::-1].copy(),
        "darkened": (photo * 0.4).astype(np.uint8),
        "rotated": np.array(picture.rotate(15, Image.BICUBIC)),
        "half size": np.array(picture.resize((photo.shape[1] // 2, photo.shape[0] // 2))),
    }


def test_a_portrait_is_more_alike_its_versions_than_any_two_people_each_other(analysis):
    changed = versions(astronaut())
    seen = recognise_all(analysis, [astronaut(), *changed.values(), group()])
    portrait, *others = [faces[0].vector for faces in seen[:-1]]
    own = dict(zip(changed, cosines([portrait], others)[0], strict=True))
    people = np.array([face.vector for face in seen[-1]])
    assert len(people) == 6
    pairs = cosines(people, people)[np.triu_indices(6, 1)]
    assert len(pairs) == 15
    assert min(own.values()) > pairs.max() + 0.1, (own, pairs.max())


def test_cosines_have_their_values():
    found = cosines([X, [2, 2, 0]], [X, -3 * X, Y])
    half = 2**-0.5
    np.testing.assert_allclose(found, [[1, -1, 0], [half, -half, half]], atol=1e-12)


def test_a_long_vector_of_a_sharp_photo_counts_no_more_than_the_others():
    np.testing.assert_allclose(person([100 * X, Y]), np.array([1, 1, 0]) / 2**0.5)


def test_two_people_are_found_in_whatever_order_they_stand():
    people = np.array([X, Y])
    one, other = X + 0.1 * Z, Y + 0.2 * Z
    for faces, order in (([one, other], (0, 1)), ([other, one], (1, 0))):
        found = match(people, np.array(faces))
        assert tuple(each.face for each in found) == order
        assert [each.similarity for each in found] == pytest.approx([1.01**-0.5, 1.04**-0.5])


def test_the_assignment_is_the_best_of_all_not_the_first_greedy_one():
    """Each likes face 0 best, but person 0 can take face 1 at a smaller loss."""
    people = np.array([X, Y])
    faces = np.array([[1, 1, 0], [0.9, 0, 0.8]])
    assert [one.face for one in match(people, faces)] == [1, 0]


@pytest.mark.parametrize("faces", [np.zeros((0, 3)), np.zeros(0)], ids=["none", "empty list"])
def test_no_face_is_none_and_not_zero(faces):
    found = match(np.array([X, Y]), faces)
    assert found == [Likeness(None, None)] * 2
    assert mean_similarity(found) is None


def test_where_a_face_is_missing_the_less_alike_person_gets_none():
    found = match(np.array([X, Y]), np.array([Y]))
    assert found == [Likeness(), Likeness(0, 1.0)]
    assert mean_similarity(found) == 1.0


@pytest.mark.parametrize("bad", [np.zeros(3), np.array([1, np.nan, 0]), np.array([np.inf, 0, 0])])
def test_a_vector_of_nothing_is_an_error_and_not_alike_to_nobody(bad):
    for call in (lambda: unit([X, bad]), lambda: match([X], np.array([bad]))):
        with pytest.raises(ValueError, match="A face vector is zero or not a number"):
            call()
    with pytest.raises(ValueError, match="A face vector is zero"):
        person([X, -X])


@pytest.mark.parametrize(
    ("judge", "makers", "suggested"),
    [
        ("glintr100.onnx", ["glintr100.onnx"], "buffalo_l"),
        ("w600k_r50.onnx", ["w600k_r50.onnx"], "antelopev2"),
        ("glintr100.onnx", [], "buffalo_l"),  # most identities are made with it
        ("w600k_r50.onnx", ["glintr100.onnx"], None),
        ("w600k_r50.onnx", [], None),
        ("other.onnx", ["other.onnx"], "buffalo_l"),
        ("other.onnx", [], None),
    ],
)
def test_who_marks_his_own_homework_is_told_another_pack(judge, makers, suggested):
    text = homework(judge, makers)
    if suggested is None:
        assert text == ""
        return
    assert text.startswith(f"The judge marks its own homework: its recogniser {judge} ")
    assert f"({suggested})" in text
    assert ("usually makes identities" in text) == (not makers)


def test_the_range_is_the_recognisers_and_unknown_for_others():
    assert range_of("glintr100.onnx") == (
        "The recogniser's same-person range: photos of one person are mostly above 0.4, of "
        "different people below 0.2 (glintr100.onnx)."
    )
    assert bounds("glintr100.onnx") == (0.2, 0.4) and bounds("x.onnx") is None
    assert range_of("x.onnx") == "No same-person range is known for x.onnx."


def test_cosines_stay_between_their_ends_where_rounding_leaves_them():
    vectors = np.random.default_rng(1).normal(size=(200, 512)).astype(np.float32)
    found = cosines([*vectors, *-vectors], [*vectors])
    assert found.min() == -1 and found.max() == 1
