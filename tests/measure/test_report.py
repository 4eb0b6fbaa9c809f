"""Report pictures: the worst first, numbers by bars, a map that is black where nothing changed."""

from __future__ import annotations

import numpy as np
from pulid_pack.measure import report
from pulid_pack.measure.report import Cell, Pair, disruption_report, heat_map, likeness_report
from pulid_pack.measure.similarity import Likeness

RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 255
BOUNDS = (0.2, 0.4)
BOX = [np.array([10.0, 10.0, 30.0, 30.0])]


def flat(colour: np.ndarray, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.tile(colour, (*size, 1)).astype(np.uint8)


def cell(number: int, colour: np.ndarray, *values: float | None) -> Cell:
    people = [Likeness(None if v is None else 0, v) for v in values]
    return Cell(number, flat(colour), people, BOX)


def column_of(sheet: np.ndarray, colour: np.ndarray) -> int:
    """Return the column at which a picture of this colour begins."""
    return int(np.flatnonzero((sheet == colour).all(-1).any(0))[0])


def test_the_least_alike_is_first_and_no_face_before_it():
    cells = [cell(0, RED, 0.7), cell(1, GREEN, None), cell(2, BLUE, 0.1)]
    sheet = likeness_report(cells, BOUNDS)
    places = [column_of(sheet, colour) for colour in (GREEN, BLUE, RED)]
    assert places == sorted(places) and len(set(places)) == 3


def test_two_people_count_by_the_less_alike_one():
    cells = [cell(0, RED, 0.3, 0.3), cell(1, GREEN, 0.9, 0.2), cell(2, BLUE, 0.9, None)]
    order = sorted(cells, key=report.worst_first)
    assert [one.number for one in order] == [2, 1, 0]


def test_the_bar_is_as_long_as_the_number():
    widths = {}
    for value in (0.5, 1.0, -0.5):
        sheet = likeness_report([cell(0, RED, value)], BOUNDS)
        colour = report.colour_of(value, BOUNDS)
        bar = (sheet == colour).all(-1)[report.MARGIN + report.HEIGHT + report.TEXT + 15 :]
        widths[value] = int(bar.sum(1).max())
    assert widths == {0.5: 128, 1.0: 255, -0.5: 1}  # the tick at 0.2 takes a pixel


def test_a_report_of_many_has_the_worst_and_stays_small():
    cells = [cell(i, RED, i / 200) for i in range(200)]
    assert likeness_report(cells, BOUNDS).shape[0] < 16 * 360


def test_a_strip_and_a_dot_have_a_report():
    for size in ((1, 300), (300, 1), (8, 8)):
        sheet = likeness_report([Cell(0, flat(RED, size), [Likeness()], [])], None)
        assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
        assert sheet.shape[1] <= 2.5 * report.HEIGHT + 2 * report.MARGIN


def test_the_map_is_black_where_nothing_changed_and_white_where_much_did():
    plain = flat(np.array([100, 100, 100]))
    changed = plain.copy()
    changed[:8, :8] = 255
    changed[8:16, :8] = 132  # an eighth of the range: half of what is white
    outside = np.ones((64, 64), bool)
    outside[32:, 32:] = False
    found = heat_map(plain, changed, outside)
    assert (found[:8, :8] == 255).all()
    assert (found[16:32] == 0).all()
    middle = found[8, 0].astype(int)
    assert middle[0] > middle[1] > middle[2] > 0
    assert {tuple(c) for c in found[32:, 32:].reshape(-1, 3)} == {(120, 130, 150), (60, 65, 75)}


def test_the_most_disturbed_pair_is_first():
    outside = np.ones((64, 64), bool)
    pairs = [
        Pair(i, flat(colour), flat(colour), outside, value, [f"difference {value}"])
        for i, (colour, value) in enumerate(((RED, 0.1), (GREEN, 0.3), (BLUE, None)))
    ]
    sheet = disruption_report(pairs)
    rows = [int(np.flatnonzero((sheet == c).all(-1).any(1))[0]) for c in (BLUE, GREEN, RED)]
    assert rows == sorted(rows) and len(set(rows)) == 3
