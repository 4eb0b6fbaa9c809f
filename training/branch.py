"""The few-step branch: from noise to a picture with gradient, with identity and without.

Euler's method on the model's own few sigmas. Only the last steps have a gradient: of 4 steps the
last 3 give nearly all of it. Both paths go step by step together, so that at any time only one
step's features of the path without identity are alive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .base import Base, Prepared
from .samples import Features


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
    sigmas: list[float],
    grad_steps: int,
    compare: Callable[[Features, Features], Any] | None = None,
    kind: str | None = None,
) -> Branch:
    """Draw pictures from ``noise`` [B, C, H, W] over ``sigmas``, the last ``grad_steps`` steps with
    gradient.

    ``identity`` is an adapter's (see ``Adapter.identity``), ``cond`` what ``base.prepare`` made.
    ``compare`` gets the features of both paths in each step with gradient, ``kind`` says which;
    without it the path without identity is left out. Raises ValueError for grad_steps beyond the
    steps.
    """
    raise NotImplementedError


def align(own: Features, other: Features) -> tuple[Tensor, Tensor]:
    """Return L_sem and L_layout of one step, means over its layers.

    ``own`` are the features with identity, ``other`` those without. Nothing of a layer but its
    features is kept for the gradient.
    """
    raise NotImplementedError


def decode(vae: Any, base: Base, latent: Tensor) -> Tensor:
    """Return pictures [B, 3, H, W] in 0..1 of latents, with gradient; ``vae`` inside ``frozen``."""
    raise NotImplementedError
