"""Real photographs to features: the right person, every kind of photo, both policies."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage
import torch
from insightface.data import get_image
from PIL import Image
from pulid_pack.encoders import align, eva_clip, faces, photo
from pulid_pack.encoders.detection import face_by_hand
from pulid_pack.encoders.eva_clip import load_eva_clip, preprocess
from pulid_pack.encoders.faces import (
    FACE_ORDERS,
    Face,
    agreement,
    align_face,
    detect_faces,
    face_features,
    order_faces,
    prepare_photo,
    read_photos,
)
from standins.eva import EVA_FILE, EVA_POOLED, EVA_WIDTH

SAME_PERSON = 0.75


@pytest.fixture(scope="module")
def models(analysis, face_files):
    """Return the loaded stand-ins: face analysis and EVA-CLIP."""
    with torch.inference_mode():
        return analysis, load_eva_clip(face_files / EVA_FILE)


def to_image(picture: Image.Image | np.ndarray) -> torch.Tensor:
    """Return a picture as a ComfyUI batch of one, [1, H, W, C]."""
    values = torch.from_numpy(np.array(picture)).float() / 255
    return values[None] if values.ndim == 3 else values[None, ..., None]


def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())


def group() -> torch.Tensor:
    return to_image(get_image("t1")[:, :, ::-1].copy())


def portrait() -> torch.Tensor:
    return to_image(astronaut())


def cosine_with_portrait(models, image: torch.Tensor) -> float:
    both = [face_features(*models, each).arcface for each in (portrait(), image)]
    return float(agreement(torch.cat(both))[0, 1])


def test_shapes_and_types(models):
    found = face_features(*models, portrait())
    assert found.id_cond.shape == (1, 512 + EVA_POOLED)
    assert [state.shape for state in found.hidden] == [(1, 17, EVA_WIDTH)] * 5
    assert found.crops.shape == found.aligned.shape == (1, 512, 512, 3)
    assert torch.equal(found.id_cond[:, :512], found.arcface)
    for tensor in (found.id_cond, *found.hidden, found.crops, found.aligned):
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
    assert found.arcface.norm() > 2, "the recogniser's vector is raw, not of unit length"
    assert found.id_cond[0, 512:].norm() == pytest.approx(1, abs=1e-5)
    (record,) = found.photos
    assert (record.index, record.chosen, record.skipped, len(record.faces)) == (0, 0, False, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda a: a.point(lambda value: value * 0.4),
        lambda a: a.rotate(15, Image.Resampling.BICUBIC),
        lambda a: a.rotate(-15, Image.Resampling.BICUBIC),
        lambda a: a.resize((256, 256), Image.Resampling.LANCZOS),
        lambda a: a.convert("L"),
    ],
    ids=["mirrored", "darkened", "rotated left", "rotated right", "half size", "grey"],
)
def test_the_same_person_is_recognised_in_a_changed_photo(models, change):
    assert cosine_with_portrait(models, to_image(change(astronaut()))) > SAME_PERSON


def test_another_person_is_not(models):
    assert cosine_with_portrait(models, group()) < 0.4


def test_the_same_photo_gives_the_same_features_and_leaves_random_states_alone(models):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    first, second = (face_features(*models, portrait()) for _ in range(2))
    assert torch.equal(first.id_cond, second.id_cond)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_eva_clip_sees_the_crops_that_are_shown(models):
    analysis, eva = models
    found = face_features(analysis, eva, portrait())
    labels = torch.ones(1, 512, 512, dtype=torch.long)  # the stand-in's, of a photo without blue
    pooled, _ = eva_clip.encode_pixels(eva, preprocess(found.aligned, labels, eva.image_size))
    torch.testing.assert_close(found.id_cond[:, 512:], pooled)
    assert torch.equal(found.crops[..., 0], found.crops[..., 1])


def test_grayscale_off_keeps_the_colours(models):
    found = face_features(*models, portrait(), grayscale=False)
    assert torch.equal(found.crops, found.aligned)


def people(models) -> list[Face]:
    """Return the faces of the group photo, from the left."""
    found = detect_faces(models[0], prepare_photo(group()[0]))
    return order_faces(found, "leftmost")


def test_the_group_photo_has_six_faces(models):
    assert len(people(models)) == 6


@pytest.mark.parametrize("order", FACE_ORDERS)
def test_every_order_and_index_takes_the_person_in_the_chosen_box(models, order):
    analysis, eva = models
    everyone = people(models)
    photo = prepare_photo(group()[0])
    measure = {
        "largest": lambda f: -np.prod(f.box[2:] - f.box[:2]),
        "smallest": lambda f: np.prod(f.box[2:] - f.box[:2]),
        "leftmost": lambda f: f.box[0] + f.box[2],
        "rightmost": lambda f: -f.box[0] - f.box[2],
        "topmost": lambda f: f.box[1] + f.box[3],
        "bottommost": lambda f: -f.box[1] - f.box[3],
        "most central": lambda f: np.hypot(*((f.box[:2] + f.box[2:]) / 2 - [512, 354.5])),
        "best score": lambda f: -f.score,
    }[order]
    expected = sorted(everyone, key=measure)
    for index in range(6) if order == "leftmost" else (0, 3):
        found = face_features(analysis, eva, group(), face=order, face_index=index)
        (record,) = found.photos
        chosen = record.faces[record.chosen]
        assert record.chosen == index
        for face, same in zip(record.faces, expected, strict=True):
            assert np.array_equal(face.box, same.box)
        # EVA-CLIP's crop shows the middle of that box, ArcFace's vector is that person's.
        x, y = align.crop_centre(align.crop_matrix(chosen.keypoints))
        assert chosen.box[0] < x < chosen.box[2]
        assert chosen.box[1] < y < chosen.box[3]
        crop = torch.from_numpy(align_face(analysis, photo, expected[index])).float() / 255
        assert torch.equal(found.aligned[0], crop)
        alone = vector_of(analysis, photo, expected[index])
        assert np.array_equal(found.arcface[0].numpy(), alone)


def vector_of(analysis, photo: np.ndarray, face) -> np.ndarray:
    """Recognise one face from a part of the photo that shows no other."""
    low = np.maximum(face.box[:2] - 300, 0).astype(int)
    high = (face.box[2:] + 300).astype(int)
    part = np.zeros_like(photo)
    part[low[1] : high[1], low[0] : high[0]] = photo[low[1] : high[1], low[0] : high[0]]
    return faces.face_vector(analysis.sessions, part, face, photo)


def test_the_annotated_photo_shows_every_box_and_highlights_the_chosen_one(models):
    found = face_features(*models, group(), face="leftmost", face_index=2)
    (record,) = found.photos
    drawn = photo.annotate(read_photos(group())[0], record.faces, record.chosen)
    assert drawn.dtype == torch.float32
    picture = (drawn * 255).round().int()
    for index, face in enumerate(found.photos[0].faces):
        x1, _, x2, y2 = face.box.round().astype(int).tolist()
        colour = picture[y2 - 1, (x1 + x2) // 2].tolist()
        assert colour == ([46, 204, 64] if index == 2 else [255, 200, 0])


def test_an_index_beyond_the_faces_tells_how_many_there_are(models):
    with pytest.raises(ValueError, match=r"face_index 6.*image 0.*has 6 face\(s\).*0 to 5"):
        face_features(*models, group(), face_index=6)
    with pytest.raises(ValueError, match="face_index -1"):
        face_features(*models, group(), face_index=-1)


def batch(*pictures: Image.Image) -> torch.Tensor:
    return torch.cat([to_image(p.convert("RGB").resize((512, 512))) for p in pictures])


def blank() -> Image.Image:
    return Image.new("RGB", (512, 512), (200, 200, 200))


def test_a_photo_without_a_face_is_named_by_its_index(models):
    with pytest.raises(ValueError, match=r"No face was found in image 1 of the batch.*skip"):
        face_features(*models, batch(astronaut(), blank(), astronaut()))


def test_skipping_leaves_out_only_the_faceless_photo(models):
    mirrored = astronaut().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    done = []
    found = face_features(
        *models,
        batch(astronaut(), blank(), mirrored),
        on_no_face="skip",
        progress=lambda *step: done.append(step),
    )
    assert [photo.skipped for photo in found.photos] == [False, True, False]
    assert found.id_cond.shape[0] == found.crops.shape[0] == 2
    assert [state.shape[0] for state in found.hidden] == [2] * 5
    assert done == [(1, 3), (2, 3), (3, 3)]
    alone = face_features(*models, batch(mirrored))
    torch.testing.assert_close(found.id_cond[1], alone.id_cond[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("on_no_face", ["skip", "plain model"])
def test_without_any_face_nobody_is_left(models, on_no_face):
    found = face_features(*models, batch(blank(), blank()), on_no_face=on_no_face)
    assert found.crops.shape == (0, 512, 512, 3) and len(found.id_cond) == 0
    assert [photo.skipped for photo in found.photos] == [True, True]


def test_plain_model_leaves_nobody_where_one_photo_has_no_face(models):
    photos = batch(astronaut(), blank())
    assert len(face_features(*models, photos, on_no_face="skip").crops) == 1
    assert len(face_features(*models, photos, on_no_face="plain model").crops) == 0


def test_eight_photos_run_eva_clip_once(models):
    analysis, eva = models
    runs = []
    handle = eva.patcher.model.head.register_forward_hook(lambda _, x, y: runs.append(len(y)))
    try:
        face_features(analysis, eva, portrait().expand(8, -1, -1, -1))
    finally:
        handle.remove()
    assert runs == [8]
    assert analysis.sessions.loads == 1


def test_agreement_is_the_cosine_of_each_pair():
    vectors = torch.tensor([[3.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    half = 2**-0.5
    expected = torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]])
    torch.testing.assert_close(agreement(vectors), expected)


def test_a_photo_with_alpha_is_recognised(models):
    opaque = torch.cat((portrait(), torch.ones(1, 512, 512, 1)), dim=-1)
    assert cosine_with_portrait(models, opaque) > 0.999


def test_an_8k_photo_is_recognised(models):
    large = astronaut().resize((7680, 4320), Image.Resampling.NEAREST)
    found = face_features(*models, to_image(large))
    assert found.photos[0].faces[0].photo_size == (1024, 576)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.zeros(1, 64, 64, 3), "No face was found in image 0"),
        (torch.full((1, 8, 8, 3), 0.5), "No face was found in image 0"),
        (torch.full((1, 64, 64, 3), float("nan")), "Image 0 of the batch.*NaN"),
        (torch.full((1, 64, 64, 3), float("inf")), "Image 0 of the batch.*NaN or infinite"),
        (torch.zeros(1, 64, 64, 2), "Image 0 of the batch.*channels"),
        (torch.zeros(1, 0, 64, 3), "Image 0 of the batch"),
        (torch.zeros(64, 64, 3), "batch of images"),
        (torch.zeros(0, 64, 64, 3), "batch of images"),
    ],
)
def test_unfit_photos_are_refused(models, image, told):
    with pytest.raises(ValueError, match=told):
        face_features(*models, image)


def test_the_index_of_the_unfit_photo_is_told(models):
    images = portrait().repeat(3, 1, 1, 1)
    images[2, 5, 5, 0] = float("nan")
    with pytest.raises(ValueError, match="Image 2 of the batch"):
        face_features(*models, images)


def test_unknown_choices_are_refused(models):
    with pytest.raises(ValueError, match=r"on_no_face is 'ignore'.*error, skip, plain model"):
        face_features(*models, portrait(), on_no_face="ignore")
    with pytest.raises(ValueError, match="Unknown face order 'best'"):
        face_features(*models, portrait(), face="best")


def test_nothing_is_written_beside_the_models(models):
    analysis, _ = models
    assert sorted(p.name for p in Path(analysis.pack).iterdir()) == [
        "glintr100.onnx",
        "scrfd_10g_bnkps.onnx",
    ]


def hidden_face() -> Image.Image:
    """A face that no detector finds: the portrait turned upside down."""
    return astronaut().resize((512, 512)).transpose(Image.Transpose.ROTATE_180)


def test_five_points_by_hand_stand_for_a_face_that_is_not_found(models):
    """The points of the upright portrait, turned with it, give the upright portrait's person."""
    upright = face_features(*models, batch(astronaut()))
    (record,) = upright.photos
    turned = 100 * (511 - record.faces[record.chosen].keypoints) / 512  # pixels end at 511
    points = ", ".join(f"{x:.4f}, {y:.4f}" for x, y in turned)
    found = face_features(*models, batch(hidden_face()), face_points=points)
    assert found.photos[0].faces[0].by_hand
    # the crop is turned back by the alignment; the resampling differs by a grey level or two
    assert (found.aligned - upright.aligned).abs().mean() < 0.01
    cosine = torch.nn.functional.cosine_similarity(found.arcface, upright.arcface)
    assert cosine > 0.98
    x1, y1, x2, y2 = found.photos[0].faces[0].box
    assert x1 < turned[:, 0].min() * 5.12 and y2 > turned[:, 1].max() * 5.12
    assert 0 <= x1 < x2 <= 512 and 0 <= y1 < y2 <= 512


@pytest.mark.parametrize("points", ["1 2 3", "a", "1,2,3,4,5,6,7,8,9,101", "-1 2 3 4 5 6 7 8 9 10"])
def test_points_that_are_none_are_named(models, points):
    with pytest.raises(ValueError, match="face_points is '.*expected ten numbers from 0 to 100"):
        face_features(*models, batch(astronaut()), face_points=points)


def test_points_by_hand_stay_where_they_were_put_though_retinaface_is_loaded():
    picture = skimage.data.astronaut()
    face = face_by_hand("40,16 48,16 44,20 41,25 47,25", picture)
    without, loaded = (
        faces.align_face(SimpleNamespace(landmarks=landmarks), picture, face)
        for landmarks in (None, "asked for nothing")
    )
    assert np.array_equal(without, loaded)
