"""AdamW, its rate over a stage, clipping, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .config import Optimizer, Stage
from .packages import require


def rate(stage: Stage, done: int) -> float:
    """Return the learning rate of the step after ``done`` steps of a stage.

    It rises linearly over the warm-up, then stays, or falls along a half cosine to a hundredth.
    """
    if done < stage.warmup:
        return stage.rate * (done + 1) / stage.warmup
    if stage.schedule == "constant":
        return stage.rate
    share = (done - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def optimizer_class(settings: Optimizer) -> type[torch.optim.Optimizer]:
    """Return AdamW, or bitsandbytes' with states of 8 bits."""
    if settings.kind == "adamw8bit":
        return require("bitsandbytes", "[optimizer] kind = adamw8bit").optim.AdamW8bit
    return torch.optim.AdamW


def arguments(settings: Optimizer) -> dict[str, Any]:
    """Return what an optimizer is made with; its rate is set before each step."""
    return {
        "lr": 0.0,
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
    }


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients down to a norm of at most ``limit`` (0: leave them); return the norm.

    Nothing is read back: a norm that is not finite shows when the step's figures are.
    """
    own = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in own])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(own, limit, norm)
    return norm


class Averaged:
    """An exponential moving average of the weights, or nothing where its decay is 0."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        if decay:
            self.weights = {k: v.detach().clone() for k, v in module.named_parameters()}

    def follow(self, module: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps; early on the average follows faster."""
        if not self.weights:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        own = dict(module.named_parameters())
        with torch.no_grad():
            now = [own[name] for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), now, 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on with the averages of a checkpoint."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
