"""Which steps of a run an identity will act in, told to the page before the run.

The page knows the graph and this the sampler's arithmetic: the window bar shows what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from comfy.model_sampling import ModelSamplingDiscrete, ModelSamplingFlux
from comfy.samplers import SCHEDULER_NAMES, calculate_sigmas
from server import PromptServer

from ..identity.window import CURVES, Window

ROUTE = "/pulid_flux/window"
MOST_STEPS = 10_000  # the most that KSampler takes


@dataclass(frozen=True)
class Schedule:
    """The settings of a sampler, or of a scheduler and FlipSigmas behind it."""

    steps: int
    scheduler: str
    denoise: float = 1.0
    first: int = 0  # KSampler (Advanced)'s start_at_step and end_at_step
    last: int = MOST_STEPS
    rising: bool = False
    sdxl: bool = False

    @property
    def sampling(self) -> ModelSamplingFlux | ModelSamplingDiscrete:
        """The model's relation of steps and sigmas, with its default settings."""
        return ModelSamplingDiscrete() if self.sdxl else ModelSamplingFlux()

    def sigmas(self) -> list[float]:
        """Return the run's sigmas, one more than it has steps, as ComfyUI's nodes make them.

        Another shift than FLUX's default moves the sigmas and the window alike.
        """
        if self.denoise <= 0:
            return []
        total = self.steps if self.denoise > 0.9999 else int(self.steps / self.denoise)
        sigmas = calculate_sigmas(self.sampling, self.scheduler, total)
        kept = sigmas[-(self.steps + 1) :][: self.last + 1][self.first :].tolist()
        return kept[::-1] if self.rising else kept


def factors(window: Window, schedule: Schedule) -> list[float]:
    """Return what the weight is multiplied with in each step of a run; 0 where nothing acts."""
    sigmas = schedule.sigmas()
    opened = window.resolve(schedule.sampling.percent_to_sigma, sigmas)
    return [opened.factor(sigma) for sigma in sigmas[:-1]]


def register() -> None:
    """Add the route that the window bar asks."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.get(ROUTE)
    async def window(request: web.Request) -> web.Response:
        asked = read(request.query)
        if asked is None:
            return web.json_response({"error": "not a window and a schedule"}, status=400)
        return web.json_response({"factors": factors(*asked)})


def read(query: Mapping[str, Any]) -> tuple[Window, Schedule] | None:
    """Return the window and the schedule of a request, None if it is not one."""
    try:
        start_at, end_at, denoise = (float(query[n]) for n in ("start_at", "end_at", "denoise"))
        steps = ("start_step", "end_step", "steps", "first", "last")
        start_step, end_step, count, first, last = (int(query[n]) for n in steps)
        curve, scheduler, rising = (query[n] for n in ("weight_curve", "scheduler", "rising"))
    except (KeyError, ValueError):
        return None
    if not all(math.isfinite(value) for value in (start_at, end_at, denoise)):
        return None
    known = curve in CURVES and scheduler in SCHEDULER_NAMES
    if not (known and 0 < count <= MOST_STEPS and first >= 0 and last >= 0):
        return None
    # a run of many more steps would keep the server busy; ComfyUI's own nodes allow it
    if denoise > 0 and count / denoise > MOST_STEPS:
        return None
    window = Window(start_at, end_at, start_step, end_step, curve)
    sdxl = query.get("sdxl") == "true"
    return window, Schedule(count, scheduler, denoise, first, last, rising == "true", sdxl)
