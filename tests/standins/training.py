"""Small adapters and inputs for training's tests, and gradients checked by finite differences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import comfy.ldm.flux.layers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.identity.id_former import Sizes
from pulid_pack.training.adapter import Adapter, new
from pulid_pack.training.samples import BLOCKS, QUERIES
from torch import Tensor

ENCODER = Sizes(
    dim=64,
    inner=64,
    hidden=64,
    depth=5,
    queries=4,
    face_tokens=2,
    output=32,
    id_cond=24,
    vit=16,
    mapping=32,
)
# FLUX's attention shows its queries from ComfyUI 0.18 on
NEEDS_QUERIES = pytest.mark.skipif(
    "attn1_patch" not in inspect.getsource(comfy.ldm.flux.layers),
    reason="this ComfyUI does not show FLUX's queries",
)
KINDS = [BLOCKS, pytest.param(QUERIES, marks=NEEDS_QUERIES)]
STATES = 3  # vision states of a photo
STEP = 2e-5


def random_adapter(model: ModelPatcher, encoder: Sizes = ENCODER, heads: int = 1) -> Adapter:
    """Return an adapter for ``model`` that shows something, as if it had been trained."""
    adapter = new(model, encoder, heads, seed=4)
    draw = torch.Generator().manual_seed(5)
    with torch.inference_mode(False), torch.no_grad():
        for tensor in adapter.parameters():
            if not tensor.any():
                tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.2)
    return adapter


def photos(rows: int = 2, sizes: Sizes = ENCODER, dtype: torch.dtype = torch.float64):
    """Return what the encoders say of ``rows`` people: id_cond [B, 1, C], hidden 5 x [B, S, W]."""
    draw = torch.Generator().manual_seed(6)
    id_cond = torch.randn(rows, 1, sizes.id_cond, generator=draw, dtype=dtype)
    hidden = [torch.randn(rows, STATES, sizes.vit, generator=draw, dtype=dtype) for _ in range(5)]
    return id_cond, hidden


def noise(*shape: int, seed: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the same noise for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def errors(
    loss: Callable[[], Tensor], groups: dict[str, Sequence[Tensor]], step: float = STEP
) -> dict[str, float]:
    """Return how far autograd's gradient is from finite differences, relative, for each group.

    Each group of tensors is moved along its gradient and a random direction together: that shows
    a gradient that is too long as well as one that points elsewhere. Central differences.
    """
    every = [tensor for group in groups.values() for tensor in group]
    gradients = dict(zip(map(id, every), torch.autograd.grad(loss(), every), strict=True))
    draw, found = torch.Generator().manual_seed(8), {}
    for name, group in groups.items():
        own = [gradients[id(tensor)] for tensor in group]
        other = [torch.randn(g.shape, generator=draw, dtype=g.dtype) for g in own]
        along = [a / length(own) + b / length(other) for a, b in zip(own, other, strict=True)]
        wanted = float(sum((g * d).sum() for g, d in zip(own, along, strict=True)))
        ahead, behind = (moved(loss, group, along, by) for by in (step, -step))
        slope = (ahead - behind) / (2 * step)
        found[name] = abs(wanted - slope) / abs(slope)
    return found


def length(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().sqrt()


def moved(
    loss: Callable[[], Tensor], group: Sequence[Tensor], along: Sequence[Tensor], by: float
) -> float:
    """Return the loss with the group's tensors moved, which are put back bit by bit."""
    before = [tensor.detach().clone() for tensor in group]
    with torch.no_grad():
        for tensor, direction in zip(group, along, strict=True):
            tensor += by * direction
        value = float(loss())
        for tensor, old in zip(group, before, strict=True):
            tensor.copy_(old)
    return value
