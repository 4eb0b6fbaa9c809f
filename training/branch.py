"""The few-step branch: from noise to a picture with gradient, with identity and without.

Euler's method on the model's own few sigmas. Only the last steps have a gradient: of 4 steps the
last 3 give nearly all of it. Both paths go step by step together, so that at any time only one
step's features of the path without identity are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.sd
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import losses
from .base import Base, Prepared
from .samples import Features

Compare = Callable[[Features, Features], Any]


@dataclass
class Branch:
    """Where the branch arrived: latents [B, C, H, W] with identity (with gradient) and without.

    ``without`` is None where nothing was compared; ``compared`` has what each step with gradient
    gave.
    """

    latent: Tensor
    without: Tensor | None
    compared: list[Any] = field(default_factory=list)


def run(
    base: Base,
    identity: Any,
    noise: Tensor,
    cond: Prepared,
    sigmas: Sequence[float],
    grad_steps: int,
    compare: Compare | None = None,
    kind: str | None = None,
) -> Branch:
    """Draw pictures from ``noise`` [B, C, H, W] over ``sigmas``, with gradient in the last steps.

    ``identity`` is an adapter's (see ``Adapter.identity``), ``cond`` what ``base.prepare`` made.
    ``compare`` gets the features of both paths (with identity, without) in each step with gradient,
    ``kind`` says which; without it, the path without identity is left out. Raises ValueError for
    ``grad_steps`` beyond the steps.
    """
    steps = len(sigmas) - 1
    if not 1 <= grad_steps <= steps:
        raise ValueError(
            f"grad_steps is {grad_steps}, expected a number from 1 to {steps}, the branch's steps."
        )
    # as the host's samplers begin: pure noise at the first sigma
    begin = base.sampling.noise_scaling(filled(noise, sigmas[0]), noise, noise * 0, True)
    found = Branch(begin, begin if compare else None)
    for step in range(steps):
        now, after = filled(noise, sigmas[step]), filled(noise, sigmas[step + 1])
        live = step >= steps - grad_steps
        own = other = None
        if live and compare:
            own, other = (Features(kind or base.features) for _ in range(2))
        if found.without is not None:
            with torch.no_grad():
                found.without = euler(base, found.without, now, after, cond, None, other)
        with torch.set_grad_enabled(live):
            found.latent = euler(base, found.latent, now, after, cond, identity, own)
            if compare and live:
                found.compared.append(compare(own, other))
    return found


def euler(
    base: Base,
    x: Tensor,
    now: Tensor,
    after: Tensor,
    cond: Prepared,
    identity: Any,
    features: Features | None,
) -> Tensor:
    """Return x [B, C, H, W] at sigma ``after`` [B], from sigma ``now`` in one step."""
    out = base(x, now, cond, identity, features)
    return x + base.slope(out, x, now) * (after - now).reshape(-1, 1, 1, 1)


def filled(x: Tensor, sigma: float) -> Tensor:
    """Return sigma for each of x's rows [B], on x's device."""
    return torch.full(x.shape[:1], sigma, dtype=x.dtype, device=x.device)


def align(own: Features, other: Features) -> tuple[Tensor, Tensor]:
    """Return L_sem and L_layout of one step, means over its layers.

    ``own`` are the features with identity, ``other`` those without. Nothing of a layer but its
    features is kept for the gradient.
    """

    def layer(q_id: Tensor, number: int) -> Tensor:
        q_id = own.ready(q_id)
        q, k = other.layer(number)
        return torch.stack(
            [losses.semantic_alignment(q_id, q, k), losses.layout_alignment(q_id, q)]
        )

    plain = {"use_reentrant": False, "preserve_rng_state": False}
    every = [checkpoint(layer, q_id, number, **plain) for number, q_id in enumerate(own.q)]
    sem, layout = torch.stack(every).mean(0)
    return sem, layout


def decode(vae: comfy.sd.VAE, base: Base, latent: Tensor) -> Tensor:
    """Return the pictures [B, 3, H, W] in 0..1 of latents [B, C, h, w], with gradient.

    Use it inside ``frozen(vae.patcher)``: the host's own ``VAE.decode`` has no gradient.
    """

    def decoded(latent: Tensor) -> Tensor:
        return vae.process_output(losses.wide(vae.first_stage_model.decode(latent)))

    inside = base.model.model.process_latent_out(latent).to(vae.vae_dtype)
    return checkpoint(decoded, inside, use_reentrant=False, preserve_rng_state=False)
