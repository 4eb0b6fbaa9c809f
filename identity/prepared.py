"""What is made of ID tokens before sampling, for every model family.

The layers that show an identity to a model, with its ID tokens multiplied in, depend on the tokens,
the PuLID file and the diffusion model alone. The last ones live on the loaded PuLID file, so that a
new weight, window or mask prepares nothing, and go with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from torch import Tensor, nn

from .run import IdentityUse

REMEMBERED = 4  # sets of ID tokens (126 MB each for FLUX.1); more only where one model uses more


@dataclass(frozen=True, kw_only=True)
class DiffusionModel:
    """How and where the diffusion model computes that identities are applied to."""

    dtype: torch.dtype
    load_device: torch.device
    offload_device: torch.device
    dynamic: bool  # under the host's dynamic VRAM


class PreparedLayers(nn.Module):
    """The layers for one set of ID tokens; each has ``copied(device)``.

    ``key`` finds the copy that belongs to another patcher of the model (another GPU, say).
    """

    def __init__(self, layers: Sequence[nn.Module], key: str | None = None):
        super().__init__()
        self.key = key or uuid.uuid4().hex
        self.layers = nn.ModuleList(layers)


@dataclass(frozen=True)
class Prepared:
    """One set of ID tokens, prepared for one model."""

    tokens: Tensor  # [1, T, C]
    target: DiffusionModel
    patcher: ModelPatcher  # holds PreparedLayers

    @property
    def key(self) -> str:
        return self.patcher.model.key

    def is_of(self, tokens: Tensor, target: DiffusionModel) -> bool:
        return self.target == target and same(self.tokens, tokens)


@dataclass(frozen=True)
class Shared:
    """Prepared layers, and the numbers of the uses whose positive or negative rows get them."""

    prepared: Prepared
    positive: tuple[int, ...]
    negative: tuple[int, ...]


Prepare = Callable[[Sequence[Tensor]], Sequence[PreparedLayers]]


def same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def prepare(
    remembered: list[Prepared],
    token_sets: Sequence[Tensor],
    target: DiffusionModel,
    make: Prepare,
) -> list[Prepared]:
    """Return what each token set [1, T, C] needs in ``target``, made where it is not remembered.

    Equal sets share one. ``make`` turns token sets into their layers; ``remembered`` is brought up
    to date.
    """
    missing: list[Tensor] = []
    for tokens in token_sets:
        known = any(one.is_of(tokens, target) for one in remembered)
        if not known and not any(same(tokens, other) for other in missing):
            missing.append(tokens)
    new = [
        Prepared(tokens, target, make_patcher(layers, target, target.dynamic))
        for tokens, layers in zip(missing, make(missing) if missing else (), strict=True)
    ]
    everything = [*new, *remembered]
    found = [next(one for one in everything if one.is_of(t, target)) for t in token_sets]
    used = {one.key: one for one in (*found, *everything)}  # the latest first
    limit = max(REMEMBERED, len({one.key for one in found}))
    remembered[:] = list(used.values())[:limit]
    return found


def share(uses: Sequence[IdentityUse], target: DiffusionModel) -> tuple[Shared, ...]:
    """Prepare what these uses need in ``target``, once for equal ID tokens of one PuLID file."""
    found: dict[str, Shared] = {}
    for one_of_file in {id(use.pulid): use for use in uses}.values():
        wanted = [
            (tokens, number, negative)
            for negative in (False, True)
            for number, use in enumerate(uses)
            if use.pulid is one_of_file.pulid and (tokens := use.tokens(negative)) is not None
        ]
        ready = one_of_file.prepare([tokens for tokens, *_ in wanted], target)
        for one, (_, number, negative) in zip(ready, wanted, strict=True):
            users = found.get(one.key, Shared(one, (), ()))
            sides = (
                (users.positive, (*users.negative, number))
                if negative
                else ((*users.positive, number), users.negative)
            )
            found[one.key] = Shared(one, *sides)
    return tuple(found.values())


def make_patcher(layers: PreparedLayers, target: DiffusionModel, dynamic: bool) -> ModelPatcher:
    """Hand prepared layers to the host's memory management."""
    patcher = (CoreModelPatcher if dynamic else ModelPatcher)(
        layers.eval().requires_grad_(False),
        load_device=target.load_device,
        offload_device=target.offload_device,
    )
    patcher.cached_patcher_init = (copy_patcher, (layers, target))
    return patcher


def copy_patcher(
    layers: PreparedLayers, target: DiffusionModel, disable_dynamic: bool = False
) -> ModelPatcher:
    """Return a patcher with weights of its own.

    The host asks for one for each further GPU, and with ``disable_dynamic`` for a clone of the
    model that leaves dynamic VRAM, as torch.compile's node makes one.
    """
    copied = [layer.copied(target.offload_device) for layer in layers.layers]
    own = PreparedLayers(copied, layers.key)
    return make_patcher(own, target, target.dynamic and not disable_dynamic)


def compute_dtype(model: ModelPatcher, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype in which the model computes, whatever its weights are stored in."""
    # asked of the patcher, since ModelComputeDtype changes it for this patcher alone
    dtype = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    # loaders of other packs give their storage type here; their images are in 16 bit
    return dtype if dtype in (torch.float32, torch.float16, torch.bfloat16) else otherwise
