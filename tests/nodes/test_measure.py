"""The measuring nodes: numbers, table, report and notes, on photographs of real people."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pulid_pack.encoders.recognition import recognise_all
from pulid_pack.identity.files import load_identity, save_identity
from pulid_pack.identity.identity import FaceVectors
from pulid_pack.nodes.measure import PuLIDMeasureDisruption, PuLIDMeasureIdentity
from standins.lab import person
from standins.people import as_image, astronaut, crowd, group, load_faces

WALL = np.full((512, 512, 3), (150, 140, 130), np.uint8)
OWN = "glintr100.onnx"


@pytest.fixture(scope="module")
def other_judge(face_files, tmp_path_factory):
    """Return the face models under the names of buffalo_l."""
    pack = tmp_path_factory.mktemp("packs") / "buffalo_l"
    pack.mkdir()
    source = face_files / "antelopev2"
    for old, new in (("scrfd_10g_bnkps", "det_10g"), ("glintr100", "w600k_r50")):
        (pack / f"{new}.onnx").symlink_to(source / f"{old}.onnx")
    with torch.inference_mode():
        return load_faces(face_files, str(pack))


def alike(judge, image, people="one person", **more) -> tuple:
    """Run Measure Identity; return similarity, lowest, missing, the table, report and notes."""
    out = PuLIDMeasureIdentity.execute(judge, image, people, **more)
    similarity, lowest, missing, table, report = out.args
    assert out.ui["pulid_measured"] == [json.loads(table)]
    assert len(out.ui["images"]) == 1
    notes = [note["text"] for note in out.ui["pulid_notes"]]
    return similarity, lowest, missing, json.loads(table), report, notes


def people_of_the_group() -> list[np.ndarray]:
    """Return square cuts of two people in the group photo, 300 pixels wide."""
    photo = group()
    return [photo[210:510, 400:700].copy(), photo[260:560, 690:990].copy()]


def test_the_same_photo_is_one_and_the_numbers_come_out(analysis):
    image = as_image(astronaut(), astronaut()[:, ::-1], WALL)
    similarity, lowest, missing, table, report, notes = alike(
        analysis, image, reference=as_image(astronaut())
    )
    first, mirrored, wall = table["pictures"]
    assert first["similarity"] == 1.0 and 0.5 < mirrored["similarity"] < 1.0
    assert wall == {
        "picture": 2,
        "similarity": None,
        "faces": 0,
        "people": [{"similarity": None, "box": None}],
    }
    assert lowest == pytest.approx(mirrored["similarity"], abs=1e-5)
    assert similarity == pytest.approx((1 + lowest) / 2, abs=1e-5), "no face is left out, not 0"
    assert (missing, table["missing"]) == (1, 1)
    assert report.shape[0] == 1 and report.min() >= 0 and report.max() <= 1
    assert notes[0] == f"Similarity {similarity:.2f}, the lowest {lowest:.2f}."
    assert notes[1] == "No face for: picture 2."
    assert "same-person range" in notes[2]
    box = np.array(first["people"][0]["box"])
    assert (box[:2] > 0.3).all() or (box < 1).all()


def test_pictures_without_any_face_give_nan_and_null(analysis):
    blank = torch.ones(1, 64, 64, 3)
    for image in (as_image(WALL), blank, torch.rand(1, 8, 8, 3)):
        similarity, lowest, missing, table, _, notes = alike(
            analysis, image, reference=as_image(astronaut())
        )
        assert math.isnan(similarity) and math.isnan(lowest) and missing == 1
        assert table["similarity"] is None and table["lowest"] is None
        assert notes[0] == "No face for: picture 0."


def test_a_picture_that_is_not_a_number_is_named(analysis):
    broken = as_image(astronaut(), astronaut())
    broken[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Image 1 of the batch cannot be used: it holds NaN"):
        alike(analysis, broken, reference=as_image(astronaut()))


def test_of_twenty_faces_one_is_the_person(analysis):
    twenty = crowd()[:200]  # two rows of ten
    _, _, missing, table, _, _ = alike(analysis, as_image(twenty), reference=as_image(astronaut()))
    (row,) = table["pictures"]
    assert (row["faces"], missing, len(row["people"])) == (20, 0, 1)
    assert row["similarity"] > 0.4


def test_two_people_in_either_order(analysis):
    one, other = people_of_the_group()
    both = [np.concatenate(pair, axis=1) for pair in ((one, other), (other, one))]
    _, lowest, missing, table, _, _ = alike(
        analysis, as_image(*both), "one per photo", reference=as_image(one, other)
    )
    lefts = [[p["box"][0] for p in row["people"]] for row in table["pictures"]]
    assert lefts[0][0] < 0.5 < lefts[0][1] and lefts[1][1] < 0.5 < lefts[1][0]
    assert missing == 0 and lowest > 0.9


def test_every_face_of_a_group_is_a_person(analysis):
    similarity, _, missing, table, _, _ = alike(
        analysis, as_image(group()), "every face", reference=as_image(group())
    )
    people = table["pictures"][0]["people"]
    assert len(people) == 6 and missing == 0 and similarity == pytest.approx(1)
    lefts = [one["box"][0] for one in people]
    assert lefts == sorted(lefts), "counted from the left"


def test_an_identity_file_is_all_it_takes(analysis, tmp_path):
    (seen,) = recognise_all(analysis, [astronaut()])
    vector = torch.from_numpy(seen[0].vector)[None]
    known = replace(person(1), faces=FaceVectors(vector, OWN, "antelopev2"))
    save_identity(known, tmp_path / "a.safetensors")
    identity, _ = load_identity(tmp_path / "a.safetensors")
    similarity, _, _, table, _, notes = alike(analysis, as_image(astronaut()), identity=identity)
    assert similarity == pytest.approx(1, abs=1e-6)
    assert table["made_by_the_judge"] is True
    assert notes[-1] == (
        "The judge marks its own homework: its recogniser glintr100.onnx made this identity too, "
        "so its numbers are too high. Load a second face pack (buffalo_l) with Load InsightFace to "
        "judge by."
    )


def test_another_judge_needs_the_photos_and_has_no_homework(analysis, other_judge):
    known = replace(person(1), faces=FaceVectors(torch.ones(1, 512), OWN, "antelopev2"))
    image = as_image(astronaut())
    with pytest.raises(ValueError, match="are from glintr100.onnx, but the judge is w600k_r50"):
        alike(other_judge, image, identity=known)
    _, _, _, table, _, notes = alike(other_judge, image, identity=known, reference=image)
    assert table["judge"] == {"pack": "buffalo_l", "recogniser": "w600k_r50.onnx"}
    assert table["made_by_the_judge"] is False
    assert not any("homework" in note for note in notes)


def test_nothing_to_compare_with_is_an_error(analysis):
    for more in ({}, {"identity": person(1)}):
        with pytest.raises(ValueError, match="There is nothing to compare with"):
            alike(analysis, as_image(astronaut()), **more)
    with pytest.raises(ValueError, match="No face was found in image 1 of reference"):
        alike(analysis, as_image(astronaut()), reference=as_image(astronaut(), WALL))
    with pytest.raises(ValueError, match="people is 'nobody'; choose one of one person"):
        alike(analysis, as_image(astronaut()), "nobody", reference=as_image(astronaut()))


def disturbed(image, plain, **more) -> tuple:
    """Run Measure Disruption; return its numbers by name, the table, report and notes."""
    out = PuLIDMeasureDisruption.execute(image, plain, **more)
    *numbers, table, report = out.args
    names = ("difference", "structure", "scene", "face_overlap", "face_size", "head_turn")
    assert out.ui["pulid_measured"] == [json.loads(table)]
    notes = [(note["text"], note["warning"]) for note in out.ui["pulid_notes"]]
    return dict(zip(names, numbers, strict=True)), json.loads(table), report, notes


def test_equal_pictures_are_undisturbed_and_the_node_says_so(analysis):
    image = as_image(astronaut())
    numbers, table, report, notes = disturbed(image, image, face_analysis=analysis)
    assert math.isnan(numbers.pop("scene")), "without EVA-CLIP"
    assert numbers == {
        "difference": 0.0,
        "structure": 0.0,
        "face_overlap": 1.0,
        "face_size": 1.0,
        "head_turn": pytest.approx(0, abs=1e-4),
    }
    assert table["pictures"][0]["faces_with"] == 1 and table["scene"] is None
    assert notes[1][0].startswith("The pictures are equal")


def test_only_what_is_outside_the_face_and_hair_counts(analysis):
    photo = astronaut()
    blurred, painted = photo.copy(), photo.copy()
    face = (slice(60, 170), slice(180, 260))
    blurred[face] = np.array(Image.fromarray(photo[face]).resize((40, 55)).resize((80, 110)))
    painted[400:450, 400:450] = 255 - painted[400:450, 400:450]
    image = as_image(blurred, painted)
    numbers, table, _, _ = disturbed(image, as_image(photo), face_analysis=analysis)
    inside, outside = table["pictures"]
    assert (inside["difference"], inside["structure"]) == (0.0, 0.0)
    change = np.abs(photo.astype(float) - painted).sum() / 255 / 3
    expected = change / (outside["outside"] * 512 * 512)
    assert outside["difference"] == pytest.approx(expected, rel=1e-3)
    assert numbers["difference"] == pytest.approx(expected / 2, rel=1e-3)


def test_a_mask_says_what_may_change(analysis):
    photo = astronaut()
    painted = photo.copy()
    painted[:, :256] = 0
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    numbers, _, _, notes = disturbed(as_image(painted), as_image(photo), face_mask=mask)
    assert numbers["difference"] == 0.0 and math.isnan(numbers["face_overlap"])
    assert [warning for _, warning in notes] == [False, False]
    numbers, _, _, notes = disturbed(
        as_image(painted), as_image(photo), face_mask=torch.ones(1, 64, 64)
    )
    assert math.isnan(numbers["difference"])
    assert ("Nothing is outside the faces in picture 0.", True) in notes


def test_what_was_not_looked_at_is_said(analysis):
    image = as_image(WALL)
    warned = [text for text, warning in disturbed(image, image)[3] if warning]
    assert warned == ["The whole picture counts, with the faces: link face_analysis or face_mask."]
    notes = disturbed(image, image, face_analysis=analysis)[3]
    assert [text for text, warning in notes if warning] == [
        "No face in picture 0: the whole of it counts."
    ]


def test_pictures_that_do_not_fit_together_are_errors():
    photo = as_image(astronaut())
    with pytest.raises(ValueError, match="There are 3 pictures with identity and 2 without"):
        disturbed(photo.repeat(3, 1, 1, 1), photo.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="different sizes: 512x512 with identity, 256x512 without"):
        disturbed(photo, photo[:, :, :256])
    with pytest.raises(ValueError, match="image is the value 'x', expected a link"):
        disturbed("x", photo)
