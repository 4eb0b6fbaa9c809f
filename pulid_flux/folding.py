"""ID tokens multiplied into the cross-attention layers: what sampling needs of an identity.

A fold depends on the ID tokens, the PuLID file and the FLUX model's shape alone. The last ones live
on the loaded PuLID file, so that a new weight, window or mask folds nothing, and go with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from torch import Tensor, nn

from .checkpoint import PulidModel
from .cross_attention import FoldedLayer, FoldingLayer

FoldedWeights = tuple[Tensor, Tensor, Tensor]  # A, b, B of cross_attention.py
REMEMBERED = 4  # folds of 126 MB at FLUX.1's size; more only where one model uses more


@dataclass(frozen=True)
class FluxModel:
    """The diffusion model that identities are applied to."""

    width: int
    patch_size: int
    blocks: tuple[tuple[str, int, int], ...]  # what block_layers says of its depth
    dtype: torch.dtype  # in which it computes
    load_device: torch.device
    offload_device: torch.device
    dynamic: bool  # under the host's dynamic VRAM


class FoldedLayers(nn.Module):
    """The folded layers of one set of ID tokens.

    ``key`` finds the copy that belongs to another patcher of the model (another GPU, say).
    """

    def __init__(self, key: str, weights: Sequence[FoldedWeights], heads: int):
        super().__init__()
        self.key = key
        self.layers = nn.ModuleList(FoldedLayer(*w, heads) for w in weights)


@dataclass(frozen=True)
class Fold:
    """One set of ID tokens, folded for one model."""

    tokens: Tensor  # [1, T, C]
    flux: FluxModel
    patcher: ModelPatcher  # holds FoldedLayers

    @property
    def key(self) -> str:
        return self.patcher.model.key

    def is_of(self, tokens: Tensor, flux: FluxModel) -> bool:
        return self.flux == flux and same(self.tokens, tokens)


def same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def fold(pulid: PulidModel, token_sets: Sequence[Tensor], flux: FluxModel) -> list[Fold]:
    """Return the fold of each token set [1, T, C], made now where it is not remembered.

    Equal sets share one fold.
    """
    missing: list[Tensor] = []
    for tokens in token_sets:
        known = any(f.is_of(tokens, flux) for f in pulid.folds)
        if not known and not any(same(tokens, other) for other in missing):
            missing.append(tokens)
    everything = [*(fold_now(pulid, missing, flux) if missing else ()), *pulid.folds]
    folds = [next(f for f in everything if f.is_of(t, flux)) for t in token_sets]
    used = {f.key: f for f in (*folds, *everything)}  # the latest first
    limit = max(REMEMBERED, len({f.key for f in folds}))
    pulid.folds[:] = list(used.values())[:limit]
    return folds


def fold_now(pulid: PulidModel, token_sets: Sequence[Tensor], flux: FluxModel) -> list[Fold]:
    """Fold several token sets [1, T, C], visiting each layer once."""
    device, layers = flux.load_device, [pulid.layers[layer] for *_, layer in flux.blocks]
    tokens = [t.to(device) for t in token_sets]
    largest = sum(p.numel() for p in layers[0].parameters()) * 4
    comfy.model_management.free_memory(4 * largest, device)
    weights: list[list[FoldedWeights]] = [[] for _ in token_sets]
    for layer in layers:
        moved = FoldingLayer(layer, device)
        for ids, folded in zip(tokens, weights, strict=True):
            kept = (t.to(flux.dtype).to(flux.offload_device) for t in moved.fold(ids))
            folded.append(tuple(t.contiguous() for t in kept))
    heads = layers[0].heads
    modules = [FoldedLayers(uuid.uuid4().hex, folded, heads) for folded in weights]
    return [
        Fold(ids, flux, make_patcher(module, flux, flux.dynamic))
        for ids, module in zip(token_sets, modules, strict=True)
    ]


def make_patcher(layers: FoldedLayers, flux: FluxModel, dynamic: bool) -> ModelPatcher:
    """Hand folded layers to the host's memory management."""
    patcher = (CoreModelPatcher if dynamic else ModelPatcher)(
        layers.eval().requires_grad_(False),
        load_device=flux.load_device,
        offload_device=flux.offload_device,
    )
    patcher.cached_patcher_init = (copy_patcher, (layers, flux))
    return patcher


def copy_patcher(
    layers: FoldedLayers, flux: FluxModel, disable_dynamic: bool = False
) -> ModelPatcher:
    """Return a patcher with weights of its own.

    The host asks for one for each further GPU, and with ``disable_dynamic`` for a clone of the
    model that leaves dynamic VRAM, as torch.compile's node makes one.
    """
    weights = [
        tuple(
            t.detach().to(flux.offload_device, copy=True)
            for t in (layer.scores.weight, layer.scores.bias, layer.values.weight)
        )
        for layer in layers.layers
    ]
    copied = FoldedLayers(layers.key, weights, layers.layers[0].heads)
    return make_patcher(copied, flux, flux.dynamic and not disable_dynamic)
