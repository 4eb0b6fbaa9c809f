"""Interleaved timing: medians with their quartiles, on the CPU by the clock, on CUDA by events."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median with its lower and upper quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


def seconds(work: Work, device: torch.device) -> float:
    """Return how long ``work`` takes on ``device``."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def interleaved(
    works: Mapping[str, Work], device: torch.device, rounds: int, warm: int = 1
) -> dict[str, list[float]]:
    """Time every work once a round, so that a busy moment of the machine falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warm + rounds):
        for name, work in works.items():
            taken = seconds(work, device)
            if turn >= warm:
                times[name].append(taken)
    return times


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the spread of the ratios of each round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def peak_bytes(work: Work, device: torch.device) -> int | None:
    """Return what ``work`` allocates at most beyond what is there already; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def process_peak() -> int:
    """Return the most memory this process has held so far, in bytes."""
    if sys.platform == "win32":
        import psutil  # one of ComfyUI's own packages

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def line_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line."""
    slope, intercept = statistics.linear_regression(x, y)
    return intercept, slope


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the power of x that y grows with: 1 is linear."""
    return line_fit([math.log(v) for v in x], [math.log(v) for v in y])[1]
