"""The optimizers, their rate over a stage, clipping, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .config import Optimizer, Stage
from .packages import require

MOMENTUM = 0.95  # of Muon
ADAMW_STEP = 0.2  # the usual size (root mean square) of AdamW's step at rate 1
POLYNOMIAL = (3.4445, -4.7750, 2.0315)


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
    """Return AdamW, bitsandbytes' with states of 8 bits, or Muon."""
    if settings.kind == "adamw8bit":
        return require("bitsandbytes", "[optimizer] kind = adamw8bit").optim.AdamW8bit
    return Muon if settings.kind == "muon" else torch.optim.AdamW


class Muon(torch.optim.AdamW):
    """Muon for the matrices, AdamW for all other weights, at one rate.

    After K. Jordan et al., "Muon: an optimizer for hidden layers" (2024), scaled as in arXiv
    2502.16982 so that AdamW's rates fit. A matrix moves alike in all directions of its gradient.
    In an adapter's nearly everything lies in the one that all people have in common, and AdamW,
    which scales each number by itself, hardly moves along those that tell them apart.

    torch's own has no other weights than matrices, and is missing before torch 2.9.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take a step; the matrices' gradients are used up by it."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim == 2 and weight.grad is not None:
                    self.move(weight, **group)
                    weight.grad = None
        super().step()

    def move(self, weight: Tensor, lr: float, weight_decay: float, **_: Any) -> None:
        """Let one matrix take its step."""
        state = self.state[weight]
        if not state:
            # AdamW looks for a step in every state that is loaded
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(weight)}
        momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        ahead = torch.lerp(weight.grad, momentum, MOMENTUM)  # Nesterov's
        weight.mul_(1 - lr * weight_decay)
        weight.add_(orthogonal(ahead), alpha=-lr * ADAMW_STEP * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ [N, M]: each singular value between 0.7 and 1.2.

    Five steps of Newton and Schulz's iteration, with the polynomial of Muon's authors. On a GPU in
    bfloat16, as theirs.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x / x.norm().clamp_min(1e-12)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    a, b, c = POLYNOMIAL
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix)


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
