"""The table of a sweep: means, the Pareto front, the recommended setting, CSV, and the report."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
import pytest
from PIL import Image
from sweeping import folder as folders
from sweeping.folder import Folder, write
from sweeping.page import lines
from sweeping.plan import Job
from sweeping.plots import grid, scatter
from sweeping.results import as_csv, pareto, recommended, settings_of


def row(weight: float, seed: int, similarity: float | None, difference: float | None) -> dict:
    numbers = {"similarity": similarity, "missing": int(similarity is None)}
    numbers |= {"difference": difference, "structure": difference, "scene": None}
    files = {"picture": "pictures/a.png", "without": "pictures/b.png"}
    return {"photo": "a.jpg", "weight": weight, "seed": seed, **numbers, **files}


ROWS = [
    row(0.5, 1, 0.2, 0.01),
    row(0.5, 2, 0.4, 0.03),
    row(1.0, 1, 0.7, 0.06),
    row(1.0, 2, None, 0.08),
    row(1.5, 1, 0.65, 0.2),
    row(1.5, 2, 0.65, 0.3),
]


def test_a_setting_is_the_mean_of_its_pictures_and_no_face_is_counted_and_not_0():
    found = settings_of(ROWS, ["weight"], "difference")
    assert [(one.similarity, one.disruption, one.missing, one.pictures) for one in found] == [
        (pytest.approx(0.3), pytest.approx(0.02), 0, 2),
        (0.7, pytest.approx(0.07), 1, 2),
        (0.65, 0.25, 0, 2),
    ]
    assert [one.front for one in found] == [True, True, False]
    assert [one.name for one in found] == ["weight 0.5", "weight 1.0", "weight 1.5"]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(0.5, 0.1), (0.6, 0.2), (0.55, 0.3)], [True, True, False]),
        ([(0.5, 0.1), (0.5, 0.2)], [True, False]),  # as alike, more disturbed
        ([(0.5, 0.1), (0.6, 0.1)], [False, True]),
        ([(0.5, 0.1), (0.5, 0.1)], [True, True]),  # equals do not beat each other
        ([(None, 0.0), (0.1, 0.9), (0.2, None)], [False, True, False]),
        ([], []),
    ],
)
def test_the_front_is_what_nothing_beats(points, front):
    assert pareto(points) == front


def test_recommended_is_nearest_to_the_best_of_both_and_has_all_its_faces():
    rows = [row(w, 1, s, d) for w, s, d in ((1, 0.2, 0.0), (2, 0.55, 0.02), (3, 0.6, 0.1))]
    settings = settings_of(rows, ["weight"], "difference")
    best = recommended(settings)
    assert best is settings[1]
    lost = [*rows, row(2, 2, None, 0.02)]
    assert recommended(settings_of(lost, ["weight"], "difference")).values != {"weight": 2}
    (only,) = settings_of(rows[:1], ["weight"], "difference")
    assert recommended([only]) is only
    assert recommended(settings_of([row(1, 1, None, 0.1)], ["weight"], "difference")) is None


def test_the_csv_has_every_number_and_an_empty_cell_for_none():
    read = list(csv.DictReader(io.StringIO(as_csv(ROWS))))
    assert len(read) == 6 and read[0]["weight"] == "0.5" and read[2]["difference"] == "0.06"
    assert read[3]["similarity"] == "" and read[3]["missing"] == "1"


@pytest.fixture
def pictures(tmp_path):
    """Return a folder with one picture with identity and one without."""
    made = Folder(tmp_path)
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        Image.new("RGB", (64, 96), colour).save(tmp_path / "pictures" / f"{name}.png")
    return made


def test_plot_and_grid_are_there_with_and_without_a_face(pictures):
    faceless = [{**one, "similarity": None} for one in ROWS]
    for rows, bounds in ((ROWS, (0.2, 0.4)), (faceless, None)):
        settings = settings_of(rows, ["weight"], "difference")
        best = recommended(settings)
        plot = Image.open(io.BytesIO(scatter(rows, settings, best, "difference", bounds)))
        assert plot.size == (1020, 720) and np.asarray(plot.convert("L")).std() > 5
        sheet = Image.open(io.BytesIO(grid(rows, ["weight"], pictures.path, best)))
        blue, red = ((np.asarray(sheet)[..., c] > 200).sum() for c in (2, 0))
        assert sheet.size[1] == 40 + 4 * (192 + 22 + 10)
        assert blue and red


def test_the_page_has_one_line_for_each_setting_with_its_pictures(pictures):
    settings = settings_of(ROWS, ["weight"], "difference")
    found = lines(ROWS, settings, settings[1], pictures.path)
    assert [line["label"] for line in found] == [
        "without identity",
        "weight 0.5",
        "weight 1.0",
        "weight 1.5",
    ]
    assert [len(line["cells"]) for line in found] == [2, 2, 2, 2]
    assert [line["chosen"] for line in found] == [False, False, True, False]
    assert found[2]["cells"][1]["caption"] == "no face   changed 0.080"


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    place = Folder(tmp_path).picture(Job("0123456789abcdef", {}, "9", "a b/c"))
    assert place.name == "a-b-c-0123456789abcdef.png"
    write(place, b"old")
    half = place.parent / f"{folders.UNFINISHED}xyz"
    half.write_bytes(b"of a run that was killed")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(place, b"new and longer")
    assert place.read_bytes() == b"old"
    assert sorted(p.name for p in place.parent.iterdir()) == [half.name, place.name]
    Folder(tmp_path)
    assert [p.name for p in place.parent.iterdir()] == [place.name]
