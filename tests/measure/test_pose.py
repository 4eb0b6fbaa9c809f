"""Where a face is and which way the head is turned: angles of a turned head, and real photos."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pulid_pack.encoders.recognition import find_all
from pulid_pack.measure.pose import HEAD, head_pose, moves, turn_between
from standins.people import astronaut, face_at, group


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the five points of a head turned by these degrees, as a distant camera sees them."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    sideways = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    down = [[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]]
    round_ = [[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]]
    rotation = np.array(sideways) @ np.array(down) @ np.array(round_)
    return 1.7 * (HEAD @ rotation.T)[:, :2] + (300, 200)


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (30, 0, 0), (0, -20, 0), (0, 0, 45), (-25, 15, 10), (60, 30, -40)]
)
def test_a_turned_head_gives_its_angles(angles):
    found = head_pose(turned(*angles))
    assert (found.yaw, found.pitch, found.roll) == pytest.approx(angles, abs=1e-6)


def test_the_nose_shows_where_the_head_looks():
    straight, aside = turned(0, 0, 0), turned(30, 0, 0)
    assert (aside - straight)[2, 0] > (aside - straight)[:2, 0].mean(), "to the right of the image"


def test_the_turn_between_two_heads():
    a, b = head_pose(turned(10, 0, 0)), head_pose(turned(-25, 0, 0))
    assert turn_between(a, b) == pytest.approx(35)
    assert turn_between(a, a) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan)])
def test_points_that_are_no_face_have_no_direction(points):
    assert head_pose(points) is None


def test_people_on_photos_look_where_they_look(analysis):
    """The astronaut into the camera; of the group the man who stands to the left of the image."""
    portrait, people, mirrored = find_all(analysis, [astronaut(), group(), group()[:, ::-1].copy()])
    straight = head_pose(portrait[0].keypoints)
    assert abs(straight.yaw) < 15 and abs(straight.pitch) < 15 and abs(straight.roll) < 5
    standing = [min(faces, key=lambda face: face.centre[1]) for faces in (people, mirrored)]
    left, right = (head_pose(face.keypoints).yaw for face in standing)
    assert -75 < left < -35 and 35 < right < 75


def test_a_face_that_moves_and_grows():
    before = face_at(50, 50, 10)
    (same,) = moves([before], [before])
    assert (same.overlap, same.size, same.turn) == (1.0, 1.0, None)  # its points are all one
    (moved,) = moves([before], [face_at(60, 50, 10)])
    assert (moved.overlap, moved.size) == (pytest.approx(1 / 3), 1.0)
    (grown,) = moves([before], [face_at(50, 50, 20)])
    assert (grown.overlap, grown.size) == (0.25, 2.0)
    pair = [replace(before, keypoints=turned(yaw, 0, 0)) for yaw in (0, 20)]
    assert moves(pair[:1], pair[1:])[0].turn == pytest.approx(20)


def test_one_face_is_the_same_one_wherever_it_went_and_of_several_the_nearest():
    left, right = face_at(20, 50, 10), face_at(80, 50, 10)
    (far,) = moves([left], [right])
    assert (far.faces, far.overlap) == ((0, 0), 0.0)
    swapped = moves([left, right], [face_at(82, 50, 10), face_at(20, 50, 10)])
    assert [move.faces for move in swapped] == [(0, 1), (1, 0)]
    assert moves([left], [right, face_at(50, 50, 5)]) == []
    assert moves([], [left]) == moves([left], []) == []


def test_points_on_a_line_have_no_direction():
    rows = turned(0, 0, 0)
    for axis in (0, 1):
        flat = rows.copy()
        flat[:, axis] = 7.0
        assert head_pose(flat) is None


def test_the_mean_head_is_the_same_on_both_sides():
    mirrored = HEAD[[1, 0, 2, 4, 3]] * (-1, 1, 1)
    assert np.array_equal(mirrored, HEAD)
