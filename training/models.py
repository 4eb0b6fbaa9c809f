"""The frozen models of a run, as the loop uses them: whatever is behind them, files or drawings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .base import Base
from .dataset import Sample

See = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
Recognise = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Models:
    """What a step needs beside the adapter.

    base: the diffusion model of L_diff; branch: of the few steps, perhaps the same.
    others: the rest, to be loaded together with these two.
    decode: latents [B, C, h, w] as ``base`` samples them -> pictures [B, 3, H, W] in 0..1, with
    gradient.
    see: whitened crops [B, H, W, 3] -> the tower's pooled vectors [B, E] and five hidden states.
    recognise: pictures -> the loss's vectors [B, V] with gradient, and which have a face [B];
    judge: the same by another recogniser, or None.
    """

    name: str  # of the base, for the file's metadata
    base: ModelPatcher
    branch: ModelPatcher
    others: Sequence[ModelPatcher]
    decode: Callable[[Base, Tensor], Tensor]
    see: See
    recognise: Recognise
    judge: Recognise | None


def id_features(models: Models, samples: Sequence[Sample]) -> tuple[Tensor, list[Tensor]]:
    """Return what the ID encoder takes of B people with one photo each.

    id_cond [B, 1, V + E], five hidden states [B, S, W].
    """
    crops = torch.stack([one.crop.float() for one in samples])
    pooled, hidden = models.see(crops)  # on the tower's device
    vectors = torch.stack([one.vector.float() for one in samples]).to(pooled)
    return torch.cat((vectors, pooled), -1)[:, None], list(hidden)
