"""When an identity acts: the window over the sampling range and the weight's course in it."""

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

    start_at and end_at are fractions of the sampling range (0 = pure noise, 1 = finished picture),
    as in ComfyUI's other nodes. start_step and end_step count the sampler's steps from 0 and take
    the fractions' place where they are not negative; the end is not included.
    """

    start_at: float = 0.0
    end_at: float = 1.0
    start_step: int = -1
    end_step: int = -1
    curve: str = "constant"

    @property
    def never_opens(self) -> bool:
        """True if the window is empty whatever the sampler."""
        if self.start_step < 0 and self.end_step < 0:
            return self.start_at >= self.end_at
        return self.end_step == 0 or 0 <= self.end_step <= self.start_step

    def resolve(
        self, percent_to_sigma: Callable[[float], float], sample_sigmas: Sequence[float]
    ) -> OpenWindow:
        """Return the window in the sigmas of one sampling run.

        A fraction means the step whose sigma is nearest to it, so that 4/28 begins at step 4 of
        28 although schedulers place that step's sigma a little above or below. ``sample_sigmas``
        is the run's falling list, one more than it has steps; without it the fractions are exact.
        """
        if not sample_sigmas:
            ends = (percent_to_sigma(self.start_at), percent_to_sigma(self.end_at))
            return OpenWindow(ends[0], ends[1], ends, self.curve)
        last = len(sample_sigmas) - 1

        def step_of(step: int, fraction: float) -> int:
            if step >= 0:
                return min(step, last)
            sigma = percent_to_sigma(fraction)
            return min(range(last + 1), key=lambda i: abs(sample_sigmas[i] - sigma))

        def border(step: int) -> float:
            """Return the sigma half-way between this step and the one before it."""
            if step == 0:
                return math.inf
            if step == last:
                return -math.inf
            return (sample_sigmas[step - 1] + sample_sigmas[step]) / 2

        start, end = step_of(self.start_step, self.start_at), step_of(self.end_step, self.end_at)
        if start >= end:
            return OpenWindow(-math.inf, math.inf, (0.0, 0.0), self.curve)
        course = (sample_sigmas[start], sample_sigmas[max(start, end - 1)])
        return OpenWindow(border(start), border(end), course, self.curve)


@dataclass(frozen=True)
class OpenWindow:
    """A window in the sigmas of one run: open where upper >= sigma > lower."""

    upper: float
    lower: float
    course: tuple[float, float]  # the sigmas at which the curve begins and ends
    curve: str

    def factor(self, sigma: float) -> float:
        """Return what to multiply the weight with at ``sigma``; 0 where the window is closed."""
        if not self.upper >= sigma > self.lower:
            return 0.0
        first, last = self.course
        progress = 0.0 if first <= last else (first - sigma) / (first - last)
        return CURVES[self.curve](min(max(progress, 0.0), 1.0))
