"""ID tokens multiplied into the cross-attention layers: what sampling needs of an identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
from torch import Tensor

from ..identity.prepared import DiffusionModel, Prepared, PreparedLayers, prepare
from .checkpoint import PulidModel
from .cross_attention import FoldedLayer, FoldingLayer


@dataclass(frozen=True, kw_only=True)
class FluxModel(DiffusionModel):
    """The FLUX model that identities are applied to."""

    width: int
    patch_size: int
    blocks: tuple[tuple[str, int, int], ...]  # what block_layers says of its depth


def fold(pulid: PulidModel, token_sets: Sequence[Tensor], flux: FluxModel) -> list[Prepared]:
    """Return the folded layers of each token set [1, T, C]; equal sets share one fold."""
    return prepare(pulid.folds, token_sets, flux, lambda missing: fold_now(pulid, missing, flux))


def fold_now(
    pulid: PulidModel, token_sets: Sequence[Tensor], flux: FluxModel
) -> list[PreparedLayers]:
    """Fold several token sets [1, T, C], visiting each layer once."""
    device, layers = flux.load_device, [pulid.layers[layer] for *_, layer in flux.blocks]
    tokens = [t.to(device) for t in token_sets]
    largest = sum(p.numel() for p in layers[0].parameters()) * 4
    comfy.model_management.free_memory(4 * largest, device)
    folded: list[list[FoldedLayer]] = [[] for _ in token_sets]
    for layer in layers:
        moved = FoldingLayer(layer, device)
        for ids, done in zip(tokens, folded, strict=True):
            weights = (t.to(flux.dtype).to(flux.offload_device) for t in moved.fold(ids))
            done.append(FoldedLayer(*(t.contiguous() for t in weights), layer.heads))
    return [PreparedLayers(done) for done in folded]
