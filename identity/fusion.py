"""Several photos of one person become one set of ID tokens.

``joint`` is the authors' own way: all photos through the ID encoder together. The encoder of SDXL
v1 takes one photo; there the authors put token sets side by side, of further photos the first five
tokens (``first-five``) or all, to mix people (``id_mix``). The others, known from "PuLID-Flux
Enhanced", combine the token sets of the single photos.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .id_encoder import IDEncoder, encode_each, encode_joint, encode_zeros
from .identity import SDXL_V1, Identity

FUSIONS = (
    "joint",
    "mean",
    "concat",
    "max",
    "norm_id",
    "max_token",
    "auto_weight",
    "train_weight",
    "first-five",
    "id_mix",
)
SIDE_BY_SIDE = ("first-five", "id_mix")  # the authors' ways for v1, whose encoder takes one photo
FACE_TOKENS = 5  # of v1's tokens, those that come from the face vector: its first
SEED = 42
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
TOKEN_SHARE = 4  # each training step looks at one token in four


@dataclass(frozen=True)
class FusionOptions:
    """What the fusion modes take in addition to the photos."""

    mode: str = FUSIONS[0]
    weight_max: float = 1.0  # auto_weight
    weight_min: float = 0.0
    train_steps: int = 1000  # train_weight


Progress = Callable[[int, int], None]


def make_identity(
    encoder: IDEncoder,
    id_cond: Tensor,
    hidden: tuple[Tensor, ...],
    options: FusionOptions,
    progress: Progress | None = None,
) -> Identity:
    """Encode M photos of one person: id_cond [M, 1280], five hidden states [M, S, 1024]."""
    mode, zeros = options.mode, encode_zeros(encoder, hidden)
    if encoder.family == SDXL_V1 and mode == "joint":
        mode = "first-five"
    if mode == "joint":
        return Identity(encode_joint(encoder, id_cond, hidden), zeros, encoder.family)
    tokens = encode_each(encoder, id_cond, hidden)
    if mode in SIDE_BY_SIDE:  # as many unconditional tokens, which the authors repeat
        zeros = side_by_side(zeros.expand_as(tokens), mode)
    fused = fuse(tokens, replace(options, mode=mode), progress)
    return Identity(fused, zeros, encoder.family)


def side_by_side(tokens: Tensor, mode: str) -> Tensor:
    """[M, T, C] -> [1, T + (M - 1) * T', C]: the first photo's tokens, then T' of each other one.

    T' is T for id_mix, which mixes people, else 5.
    """
    others = tokens[1:] if mode == "id_mix" else tokens[1:, :FACE_TOKENS]
    return torch.cat((tokens[0], others.flatten(0, 1)))[None]


def fuse(tokens: Tensor, options: FusionOptions, progress: Progress | None = None) -> Tensor:
    """Combine the token sets of M photos: [M, T, C] -> [1, T, C], or more tokens where they
    are put side by side.

    Raises ValueError for an unknown mode.
    """
    mode = options.mode
    if mode not in FUSIONS[1:]:
        raise ValueError(f"fusion is '{mode}', expected one of {', '.join(FUSIONS)}.")
    if len(tokens) == 1:
        return tokens
    if mode in SIDE_BY_SIDE:
        return side_by_side(tokens, mode)
    if mode == "mean":
        return tokens.mean(0, keepdim=True)
    if mode == "concat":
        return tokens.flatten(0, 1)[None]
    if mode == "max":
        return tokens.amax(0, keepdim=True)
    if mode == "norm_id":
        weights = tokens.norm(dim=(1, 2))
        return torch.einsum("mtc,m->tc", tokens, weights / weights.sum())[None]
    if mode == "max_token":
        best = tokens.norm(dim=2).argmax(0)  # [T]
        return tokens[best, torch.arange(tokens.shape[1])][None]
    if mode == "auto_weight":
        return by_rank(tokens, options.weight_min, options.weight_max)[None]
    return trained(tokens, options.train_steps, progress)


def by_rank(tokens: Tensor, low: float, high: float) -> Tensor:
    """[M, T, C] -> [T, C], each photo's token weighted by the rank of its norm among the photos.

    The smallest norm gets ``low``, the largest ``high``, the others evenly between.
    """
    ranks = tokens.norm(dim=2).argsort(0).argsort(0)  # [M, T]; once gives an order, not ranks
    weights = torch.linspace(low, high, len(tokens))[ranks]
    return torch.einsum("mtc,mt->tc", tokens, weights)


def trained(tokens: Tensor, steps: int, progress: Progress | None = None) -> Tensor:
    """[M, T, C] -> [1, T, C]: learn how to mix photos 1 … M-1 so that they give photo 0.

    One weight per photo and token, AdamW on the distance to photo 0's tokens; the result is the
    mean of the mixed photos, each with an equal part of photo 0. Each step looks at the same tokens
    as in "Enhanced", drawn by a generator of its own.
    """
    if steps <= 0:
        return tokens.mean(0, keepdim=True)
    chance = random.Random(SEED)
    with torch.inference_mode(False), torch.enable_grad():
        target, others = tokens[0].clone(), tokens[1:].clone()
        weights = torch.ones(others.shape[:2], requires_grad=True)
        optimizer = torch.optim.AdamW([weights], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        sample = max(1, len(target) // TOKEN_SHARE)
        for step in range(steps):
            some = chance.sample(range(len(target)), sample)
            mixed = torch.einsum("mtc,mt->tc", others[:, some], weights[:, some])
            loss = (target[some] - mixed).norm(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress:
                progress(step + 1, steps)
        learned = weights.detach()
    mixed = learned[..., None] * tokens[1:] + tokens[:1] / (len(tokens) - 1)
    return mixed.mean(0, keepdim=True)
