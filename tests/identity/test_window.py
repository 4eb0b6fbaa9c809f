"""The weight's course in a window: the value in every step, curve by curve."""

from __future__ import annotations

import math

import pytest
from pulid_pack.identity.window import CURVES, NEVER, Window

HALF = math.sqrt(0.5)
# the factors in the five steps of a window over a whole run: progress 0, 1/4, 1/2, 3/4, 1
COURSES = {
    "constant": [1, 1, 1, 1, 1],
    "linear in": [0, 0.25, 0.5, 0.75, 1],
    "linear out": [1, 0.75, 0.5, 0.25, 0],
    "ease in": [0, (1 - HALF) / 2, 0.5, (1 + HALF) / 2, 1],
    "ease out": [1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0],
    "ease in-out": [0, HALF, 1, HALF, 0],
}
FALLING = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]  # sigmas of five steps, and the end


def even(fraction: float) -> float:
    return 1 - fraction


def test_every_curve_has_its_course():
    assert list(COURSES) == list(CURVES)


@pytest.mark.parametrize("curve", COURSES)
def test_factors_of_a_curve_over_a_whole_run(curve):
    opened = Window(curve=curve).resolve(even, FALLING)
    assert [opened.factor(s) for s in FALLING[:-1]] == pytest.approx(COURSES[curve], abs=1e-12)


@pytest.mark.parametrize("curve", COURSES)
def test_a_rising_run_takes_the_same_course(curve):
    rising = FALLING[::-1]
    opened = Window(curve=curve).resolve(even, rising)
    assert opened.sign == 1
    assert [opened.factor(s) for s in rising[:-1]] == pytest.approx(COURSES[curve], abs=1e-12)


def test_a_curve_runs_over_the_windows_steps_alone():
    opened = Window(start_step=1, end_step=4, curve="linear in").resolve(even, FALLING)
    assert [opened.factor(s) for s in FALLING[:-1]] == pytest.approx([0, 0, 0.5, 1, 0])
    assert (opened.opens, opened.closes) == pytest.approx((-0.9, -0.3))  # half-way between steps
    assert opened.course == (-0.8, -0.4)


def test_between_steps_a_curve_goes_on_and_does_not_leave_0_to_1():
    opened = Window(start_step=1, end_step=4, curve="linear in").resolve(even, FALLING)
    assert [opened.factor(s) for s in (0.89, 0.7, 0.31)] == pytest.approx([0, 0.25, 1])
    assert opened.factor(0.9) == 0 and opened.factor(0.3) == 0


def test_one_step_has_the_whole_weight_under_every_curve():
    """A curve begins or ends at 0: a window of one step would never act."""
    for curve in COURSES:
        opened = Window(start_step=2, end_step=3, curve=curve).resolve(even, FALLING)
        assert opened.factor(0.6) == 1.0


def test_without_a_schedule_the_course_is_the_windows():
    opened = Window(0.25, 0.75, curve="linear in").resolve(even, [])
    assert (opened.sign, opened.opens, opened.closes) == (-1, -0.75, -0.25)
    assert [opened.factor(s) for s in (0.76, 0.75, 0.5, 0.25)] == pytest.approx([0, 0, 0.5, 0])
    flat = Window(0.25, 0.75).resolve(even, [])
    assert [flat.factor(s) for s in (0.76, 0.75, 0.26, 0.25)] == [0, 1, 1, 0]  # its end is outside
    assert Window(0.25, 0.75).resolve(even, [1.0]).course == (-0.75, -0.25)
    assert Window(0.25, 0.75).resolve(even, [1.0, 0.0]).course == (-1.0, -1.0)


@pytest.mark.parametrize(
    ("window", "empty"),
    [
        (Window(), False),
        (Window(0.5, 0.5), True),
        (Window(0.6, 0.5), True),
        (Window(end_step=0), True),
        (Window(start_step=0), False),
        (Window(start_step=0, end_step=1), False),
        (Window(start_step=2, end_step=2), True),
        (Window(start_step=3, end_step=2), True),
        (Window(start_at=0.6, end_at=0.5, end_step=1), False),  # the step takes end_at's place
        (Window(start_step=3, end_at=0.5), False),
    ],
    ids=str,
)
def test_a_window_that_never_opens(window, empty):
    assert window.never_opens is empty
    if empty:
        assert window.resolve(even, FALLING) is NEVER


def test_only_a_constant_window_over_the_whole_run_is_always_open():
    assert Window().resolve(even, FALLING).always
    assert not Window(curve="linear in").resolve(even, FALLING).always
    assert not Window(start_step=1).resolve(even, FALLING).always
    assert not Window(end_step=4).resolve(even, FALLING).always
    assert Window(start_step=0, end_step=5).resolve(even, FALLING).always
    assert NEVER.never and not NEVER.always and NEVER.factor(0.5) == 0


def test_a_window_between_two_steps_opens_for_the_step_it_begins_near():
    steps = [1.0, 0.75, 0.5, 0.25, 0.0]
    for window, expected in (
        (Window(0.97, 0.98), [3]),
        (Window(0.55, 0.56), [2]),
        (Window(start_at=0.6, end_step=2), []),  # begins after it ends
        (Window(start_at=0.45, end_step=2), [1]),
    ):
        opened = window.resolve(even, steps)
        assert [i for i, s in enumerate(steps[:-1]) if opened.factor(s)] == expected, window
