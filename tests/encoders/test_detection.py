"""Faces in a photo: found where they are, in every order, and recognised."""

from __future__ import annotations

import numpy as np
import pytest
from pulid_pack.encoders import detection
from pulid_pack.encoders.detection import order_faces, overlap
from pulid_pack.encoders.faces import FACE_ORDERS, detect_faces
from standins.people import astronaut, crowd, face_at


def test_the_portrait_has_one_face_where_it_is(analysis):
    (face,) = detect_faces(analysis, astronaut())
    assert face.score > 0.9
    assert overlap(face.box, np.array([178, 63, 269, 174])) > 0.9
    inside = (face.keypoints > face.box[:2]) & (face.keypoints < face.box[2:])
    assert inside.all()
    assert face.photo_size == (512, 512)


def test_a_photo_lies_in_the_corner_or_with_a_margin_in_the_middle():
    photo = np.full((50, 100, 3), (1, 2, 3), np.uint8)
    for share, edges, corner in ((1.0, [640, 320], [0, 0]), (0.5, [320, 160], [160, 240])):
        canvas, scale, found = detection.place(photo, share)
        assert canvas.shape == (640, 640, 3) and found.tolist() == corner
        assert (scale * (100, 50)).tolist() == edges
        inside = canvas[corner[1] :, corner[0] :][: edges[1], : edges[0]]
        assert (inside == (3, 2, 1)).all() and canvas.sum() == inside.sum()


@pytest.mark.parametrize("share", detection.SHARES)
def test_every_share_of_the_canvas_gives_the_same_box(analysis, monkeypatch, share):
    monkeypatch.setattr(detection, "SHARES", (share,))
    photo = np.pad(astronaut(), ((0, 0), (90, 0), (0, 0)))
    (face,) = detect_faces(analysis, photo)
    assert overlap(face.box, np.array([268, 63, 359, 174])) > 0.7


def test_a_face_that_fills_the_frame_is_found_by_a_retry(analysis, monkeypatch):
    photo = np.ascontiguousarray(astronaut()[97:156, 197:248])
    (face,) = detect_faces(analysis, photo)
    eye_and_mouth = face.keypoints[[0, 4]] + [197, 97]
    assert abs(eye_and_mouth - [[201.6, 105.5], [242.4, 145.4]]).max() < 8
    monkeypatch.setattr(detection, "SHARES", (1.0,))
    assert detect_faces(analysis, photo) == []


@pytest.mark.parametrize("shape", [(8, 8), (1, 900), (900, 1), (400, 600)])
def test_pictures_without_a_face_give_none(analysis, shape):
    assert detect_faces(analysis, np.full((*shape, 3), 255, np.uint8)) == []


def test_fifty_faces_are_found_and_ordered(analysis):
    faces = order_faces(detect_faces(analysis, crowd()), "topmost")
    assert len(faces) == 50
    assert [int(f.centre[1] // 100) for f in faces] == [i // 10 for i in range(50)]


def test_each_order_sorts_by_its_own_measure():
    faces = [face_at(10, 80, 5, 0.6), face_at(55, 45, 3, 0.7), face_at(90, 30, 9, 0.9)]
    expected = {
        "largest": [2, 0, 1],
        "smallest": [1, 0, 2],
        "leftmost": [0, 1, 2],
        "rightmost": [2, 1, 0],
        "topmost": [2, 1, 0],
        "bottommost": [0, 1, 2],
        "most central": [1, 2, 0],
        "best score": [2, 1, 0],
    }
    assert set(expected) == set(FACE_ORDERS)
    for order, indices in expected.items():
        found = order_faces(faces, order)
        assert [faces.index(face) for face in found] == indices, order
        assert [faces.index(f) for f in order_faces(faces[::-1], order)] == indices, order
    with pytest.raises(ValueError, match=r"'biggest'.*largest"):
        order_faces(faces, "biggest")


def test_overlap_of_boxes():
    assert overlap(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
    assert overlap(np.array([0, 0, 2, 2]), np.array([2, 0, 3, 2])) == 0
    assert overlap(np.zeros(4), np.zeros(4)) == 0


def test_the_box_of_points_by_hand_reaches_as_far_past_them_as_a_detectors():
    """By 0.6 of their larger extent, and no further than the photo."""
    photo = np.zeros((200, 100, 3), np.uint8)
    face = detection.face_by_hand("40,30 60,30 50,40 45,50 55,50", photo)
    assert face.box == pytest.approx([16, 36, 84, 124])  # points from 40, 60 to 60, 100
    wide = detection.face_by_hand("10,5 90,5 50,20 30,40 70,40", photo)
    assert wide.box == pytest.approx([0, 0, 100, 128])
