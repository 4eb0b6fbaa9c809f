"""One use of an identity in an SDXL model, and its keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor
from torch.nn.functional import linear

from ..identity.prepared import DiffusionModel, Prepared, PreparedLayers, prepare
from ..identity.run import IdentityUse
from .checkpoint import PulidSDXLModel
from .id_attention import PROJECTIONS, KeysValues
from .unet import Key

# The authors' modes: zero tokens beside the ID tokens, and the projection.
METHODS = {"fidelity": (8, "ortho_v2"), "style": (16, "ortho"), "neutral": (0, "none")}


@dataclass(frozen=True, kw_only=True)
class SDXLModel(DiffusionModel):
    """The SDXL model that identities are applied to."""

    layers: tuple[Key, ...]  # of its cross-attention, in the order of the file's layers


@dataclass(frozen=True, kw_only=True)
class SDXLUse(IdentityUse):
    """One use of an identity in an SDXL model."""

    pulid: PulidSDXLModel
    num_zero: int = METHODS["fidelity"][0]
    projection: str = METHODS["fidelity"][1]

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that is not a number, or unknown."""
        super().__post_init__()
        if self.projection not in PROJECTIONS:
            raise ValueError(
                f"projection is '{self.projection}', expected one of {', '.join(PROJECTIONS)}."
            )
        if self.num_zero < 0:
            raise ValueError(f"num_zero is {self.num_zero}, expected 0 or more.")

    def prepare(self, token_sets: Sequence[Tensor], target: SDXLModel) -> list[Prepared]:
        """Return the keys and values of these token sets in the layers of its file."""
        remembered = self.pulid.keys_values
        return prepare(remembered, token_sets, target, lambda new: make(self.pulid, new, target))


def make(
    pulid: PulidSDXLModel, token_sets: Sequence[Tensor], target: SDXLModel
) -> list[PreparedLayers]:
    """Make keys and values of token sets [1, T, C], visiting each layer once.

    They are made in float32 and stored in the model's dtype, as the authors do it.
    """
    device = target.load_device
    largest = max(layer.id_to_k.weight.numel() for layer in pulid.layers) * 4
    comfy.model_management.free_memory(4 * largest, device)
    tokens = [t[0].to(device, torch.float32) for t in token_sets]
    made: list[list[KeysValues]] = [[] for _ in token_sets]
    for layer in pulid.layers:
        # moved as they are and widened there: half the bytes go over
        weights = [part.weight.to(device).float() for part in (layer.id_to_k, layer.id_to_v)]
        for ids, done in zip(tokens, made, strict=True):
            pair = (linear(ids, weight).to(target.dtype) for weight in weights)
            done.append(KeysValues(*(t.to(target.offload_device) for t in pair)))
    return [PreparedLayers(done) for done in made]
