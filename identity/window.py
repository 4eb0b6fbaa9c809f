"""When an identity acts: the window over a sampling run, and how the weight changes in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 1.0,
    "linear in": lambda x: x,
    "linear out": lambda x: 1.0 - x,
    "ease in": lambda x: (1.0 - math.cos(math.pi * x)) / 2,
    "ease out": lambda x: (1.0 + math.cos(math.pi * x)) / 2,
    "ease in-out": lambda x: math.sin(math.pi * x),
}


@dataclass(frozen=True)
class Window:
    """Where the identity acts, as the user gives it.

    start_at and end_at are positions in the sampling run (0 = its beginning, 1 = its end), as in
    ComfyUI's other nodes. start_step and end_step count the sampler's steps from 0 and take their
    place where they are not negative; the end is not included.
    """

    start_at: float = 0.0
    end_at: float = 1.0
    start_step: int = -1
    end_step: int = -1
    curve: str = "constant"

    @property
    def never_opens(self) -> bool:
        """True if the window is empty with every sampler."""
        if self.start_step < 0 and self.end_step < 0:
            return self.start_at >= self.end_at
        return self.end_step == 0 or 0 <= self.end_step <= self.start_step

    def resolve(
        self, percent_to_sigma: Callable[[float], float], sample_sigmas: Sequence[float]
    ) -> OpenWindow:
        """Return the window in the sigmas of one sampling run.

        ``sample_sigmas`` is the run's list, one more than it has steps; it falls, or rises where
        an image is turned back into noise. A fraction means the step whose sigma is nearest to it,
        so that 4/28 begins at step 4 of 28 although schedulers place that step's sigma a little
        above or below. 0 is always the first step and 1 the end, and a window that covers any part
        of the run opens for at least one step. Without ``sample_sigmas`` fractions are exact.
        """
        if len(sample_sigmas) < 2:
            course = (-percent_to_sigma(self.start_at), -percent_to_sigma(self.end_at))
            return OpenWindow(-1, *course, course, self.curve)
        last = len(sample_sigmas) - 1
        sign = -1 if sample_sigmas[0] >= sample_sigmas[-1] else 1
        times = [sign * sigma for sigma in sample_sigmas]  # these rise in every run

        def time_of(step: int, fraction: float) -> float:
            if step >= 0:
                return times[step] if step < last else math.inf
            if 0 < fraction < 1:
                return sign * percent_to_sigma(fraction if sign < 0 else 1 - fraction)
            return -math.inf if fraction <= 0 else math.inf

        def nearest(time: float) -> int:
            if math.isinf(time):
                return last if time > 0 else 0
            return min(range(last + 1), key=lambda i: abs(times[i] - time))

        def border(step: int) -> float:
            """Return the time halfway between this step and the one before it."""
            if step in (0, last):
                return math.inf if step else -math.inf
            return (times[step - 1] + times[step]) / 2

        opens, closes = (
            time_of(self.start_step, self.start_at),
            time_of(self.end_step, self.end_at),
        )
        if self.never_opens or max(opens, times[0]) >= min(closes, times[last]):
            return NEVER
        start, end = nearest(opens), nearest(closes)
        if start >= end:  # it lies between two steps
            start = min(start, last - 1) if self.end_step < 0 else self.end_step - 1
            end = start + 1
        return OpenWindow(
            sign, border(start), border(end), (times[start], times[end - 1]), self.curve
        )


@dataclass(frozen=True)
class OpenWindow:
    """A window in one run; time is sigma with the sign that lets it rise."""

    sign: int
    opens: float
    closes: float  # open where opens <= time < closes
    course: tuple[float, float]  # the times of its first and its last step
    curve: str

    @property
    def always(self) -> bool:
        """True if the factor is 1 in every step, so that the sigma need not be read."""
        return (self.opens, self.closes, self.curve) == (-math.inf, math.inf, "constant")

    @property
    def never(self) -> bool:
        """True if it contains no step."""
        return self.opens >= self.closes

    def factor(self, sigma: float) -> float:
        """Return what to multiply the weight with at ``sigma``; 0 where the window is closed."""
        time = self.sign * sigma
        if not self.opens <= time < self.closes:
            return 0.0
        first, last = self.course
        if first >= last:  # one step has no course: curves that begin at 0 would leave it out
            return 1.0
        progress = (time - first) / (last - first)
        return CURVES[self.curve](min(max(progress, 0.0), 1.0))


NEVER = OpenWindow(-1, math.inf, -math.inf, (0.0, 0.0), "constant")
