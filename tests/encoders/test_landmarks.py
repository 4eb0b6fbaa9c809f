"""RetinaFace's points: taken from the face that lies over the chosen one."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image
from pulid_pack.encoders import (
    landmarks,
)
from pulid_pack.encoders.detection import face_vector, overlap
from pulid_pack.encoders.faces import align_face, detect_faces
from standins.people import astronaut, face_at, with_retinaface


def test_retinaface_is_matched_by_overlap_not_by_centre(face_files, analysis):
    """The stand-in sees a face at every place; the one over the chosen face gives the points."""
    fine = with_retinaface(face_files)
    photo = astronaut()
    (face,) = detect_faces(fine, photo)
    seen = landmarks.landmark_faces(fine.landmarks, photo)
    assert len(seen) > 10
    points = landmarks.matching_keypoints(face, seen)
    best = max(seen, key=lambda one: overlap(one.box, face.box))
    assert np.array_equal(points, best.keypoints)
    assert ((points > face.box[:2] - 64) & (points < face.box[2:] + 64)).all()
    # The crop that follows differs from the pack's own, and both hold the face's middle.
    assert not np.array_equal(align_face(fine, photo, face), align_face(analysis, photo, face))


def test_without_overlap_the_faces_own_points_align_it(caplog):
    face, neighbour = face_at(20, 20, 9), face_at(60, 20, 9)
    with caplog.at_level(logging.WARNING):
        assert landmarks.matching_keypoints(face, [neighbour]) is face.keypoints
        assert landmarks.matching_keypoints(face, []) is face.keypoints
    assert "did not find the chosen face" in caplog.text


def test_a_face_that_only_retinaface_found_is_recognised_from_the_crop(face_files, analysis):
    fine = with_retinaface(face_files)
    blank = np.full((512, 512, 3), 120, np.uint8)
    assert detect_faces(analysis, blank) == []
    faces = detect_faces(fine, blank)
    assert faces
    assert all(face.landmarks_only for face in faces)
    assert {tuple((face.box[2:] - face.box[:2]).round()) for face in faces} == {(128.0, 128.0)}
    crop = align_face(fine, astronaut(), faces[0])
    vector = face_vector(fine.sessions, astronaut(), faces[0], crop)
    small = np.array(Image.fromarray(crop).resize((112, 112), Image.Resampling.BILINEAR))
    direct = fine.sessions.get("recognition").get_feat(small[:, :, ::-1]).flatten()
    assert vector.shape == (512,)
    cosine = vector @ direct / np.linalg.norm(vector) / np.linalg.norm(direct)
    assert cosine > 0.9
