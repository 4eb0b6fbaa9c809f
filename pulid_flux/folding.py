"""The identities applied to a model, multiplied out into what sampling needs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from torch import Tensor, nn

from ..identity.identity import Identity
from ..identity.window import Window
from .checkpoint import PulidModel
from .cross_attention import CrossAttention, FoldedLayer, PlainLayer, folded_cost, plain_cost

UNCONDITIONAL = ("zero identity", "same identity", "none")


@dataclass(frozen=True)
class Target:
    """The FLUX model that identities are applied to."""

    dim: int
    patch_size: int
    layers: int  # cross-attention layers that its depth asks for
    dtype: torch.dtype  # in which the model computes


@dataclass(frozen=True)
class Applied:
    """One use of an identity."""

    pulid: PulidModel
    identity: Identity
    weight: float
    window: Window
    mask: Tensor | None = None  # [M, H, W] in 0..1
    unconditional: str = UNCONDITIONAL[0]
    double_weight: float = 1.0
    single_weight: float = 1.0

    def tokens(self, unconditional: bool) -> Tensor | None:
        """ID tokens [1, T, C] for the conditional or the unconditional rows, None for nothing."""
        if not unconditional or self.unconditional == "same identity":
            return self.identity.id_tokens
        return None if self.unconditional == "none" else self.identity.uncond_id_tokens


@dataclass(frozen=True)
class Group:
    """All uses of the same ID tokens on the same kind of rows: they are attended to once."""

    tokens: Tensor  # [1, T, C]
    unconditional: bool
    members: tuple[int, ...]  # their places among the applied identities


@dataclass(frozen=True)
class Term:
    """What is added in each block for one folded group, or for all groups in the plain form."""

    pulid: PulidModel
    groups: tuple[Group, ...]
    patcher: ModelPatcher  # holds Layers

    @property
    def key(self) -> str:
        return self.patcher.model.key


class Layers(nn.Module):
    """The cross-attention layers of one term; ``key`` finds the copy that is on another GPU."""

    def __init__(self, key: str, layers: Sequence[nn.Module]):
        super().__init__()
        self.key = key
        self.layers = nn.ModuleList(layers)


def make_terms(
    target: Target, applied: Sequence[Applied], earlier: Sequence[Term] = ()
) -> tuple[Term, ...]:
    """Return what has to be added in each block, in the form that costs least.

    Identities of one PuLID model take the plain form together where that needs fewer
    multiply-adds than folding each. Terms of an ``earlier`` injection are taken over as they are.
    """
    terms: list[Term] = []
    for pulid in {id(a.pulid): a.pulid for a in applied}.values():
        groups = group_tokens(pulid, applied)
        if plain_is_cheaper(pulid, [g for g in groups if not g.unconditional]):
            terms.append(plain_term(target, pulid, groups))
            continue
        for group in groups:
            known = (t for t in earlier if t.pulid is pulid and same_group(t.groups, group))
            term = next(known, None)
            terms.append(
                replace(term, groups=(group,)) if term else folded_term(target, pulid, group)
            )
    return tuple(terms)


def group_tokens(pulid: PulidModel, applied: Sequence[Applied]) -> list[Group]:
    """Collect equal ID tokens of one PuLID model (the zero identity is always the same)."""
    groups: list[Group] = []
    for unconditional in (False, True):
        for i, use in enumerate(applied):
            tokens = use.tokens(unconditional)
            if use.pulid is not pulid or tokens is None:
                continue
            one = Group(tokens, unconditional, (i,))
            at = next((k for k, g in enumerate(groups) if same_group((g,), one)), None)
            if at is None:
                groups.append(one)
            else:
                groups[at] = replace(groups[at], members=(*groups[at].members, i))
    return groups


def same_group(groups: tuple[Group, ...], other: Group) -> bool:
    """Return whether ``groups`` is one group of the same tokens for the same kind of rows."""
    if len(groups) != 1 or groups[0].unconditional != other.unconditional:
        return False
    return torch.equal(groups[0].tokens, other.tokens)


def plain_is_cheaper(pulid: PulidModel, groups: Sequence[Group]) -> bool:
    """Return whether the plain form of these groups needs fewer multiply-adds a token."""
    tokens = [g.tokens.shape[1] for g in groups]
    heads = pulid.layers[0].heads
    return plain_cost(pulid.dim, heads, tokens) < folded_cost(pulid.dim, heads, tokens)


def folded_term(target: Target, pulid: PulidModel, group: Group) -> Term:
    """Fold one group's tokens into every layer."""
    weights = [
        keep(target, *layer.fold(group.tokens.to(layer.to_q.device)))
        for layer in on_device(pulid, target)
    ]
    return Term(pulid, (group,), make_patcher(folded_layers, new_key(), pulid, weights))


def folded_layers(key: str, pulid: PulidModel, weights: list[tuple[Tensor, ...]]) -> Layers:
    """Build the module of a folded term."""
    heads = pulid.layers[0].heads
    return Layers(key, [FoldedLayer(*w, heads, comfy.ops.manual_cast) for w in weights])


def plain_term(target: Target, pulid: PulidModel, groups: Sequence[Group]) -> Term:
    """Bring all groups of one PuLID model into the plain form."""
    weights = []
    for layer in on_device(pulid, target):
        keys_values = [
            keep(target, *layer.keys_values(g.tokens.to(layer.to_q.device))) for g in groups
        ]
        weights.append((*keep(target, *layer.queries(), layer.to_out), keys_values))
    return Term(pulid, tuple(groups), make_patcher(plain_layers, new_key(), weights))


def plain_layers(key: str, weights: list[tuple]) -> Layers:
    """Build the module of a plain term."""
    return Layers(key, [PlainLayer(*w, comfy.ops.manual_cast) for w in weights])


def keep(target: Target, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors as they are held: on the CPU, in the model's compute dtype, contiguous."""
    return tuple(t.to("cpu", target.dtype).contiguous() for t in tensors)


def on_device(pulid: PulidModel, target: Target) -> Iterator[CrossAttention]:
    """Yield the PuLID layers one at a time on the compute device, in float32."""
    device = comfy.model_management.get_torch_device()
    layers = pulid.layers[: target.layers]
    largest = sum(t.numel() for t in vars(layers[0]).values()) * 4
    comfy.model_management.free_memory(4 * largest, device)
    for layer in layers:
        yield layer.to(device, torch.float32)


def new_key() -> str:
    """Return a name that no other term has."""
    return uuid.uuid4().hex


def make_patcher(build: Callable[..., Layers], *state: Any, **_: Any) -> ModelPatcher:
    """Put the module that ``build(*state)`` makes into the host's hands."""
    patcher = CoreModelPatcher(
        build(*state).eval().requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    # the host calls this for a copy on each further GPU, some versions with options of their own
    patcher.cached_patcher_init = (make_patcher, (build, *state))
    return patcher
