"""An identity: the ID tokens of a person, and how photos become them."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from .checkpoint import PulidModel


@dataclass(frozen=True)
class Identity:
    """ID tokens of one person, float32 on the CPU.

    ``uncond_id_tokens`` is what the same encoder makes of nothing (zeros pushed through it); the
    authors use it on the unconditional rows under true CFG.
    """

    id_tokens: Tensor  # [1, T, C]
    uncond_id_tokens: Tensor  # [1, T', C]


def encode_tokens(pulid: PulidModel, id_cond: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
    """Push faces through the ID encoder, each person's photos together.

    id_cond [B, M, 1280] of M photos each, five hidden states [B, M * S, 1024] -> [B, 32, C] in
    float32 on the CPU. Raises ValueError if the vision tower does not fit the encoder.
    """
    encoder = pulid.encoder.model
    found = (id_cond.shape[-1], hidden[0].shape[-1])
    if found != (encoder.id_cond_width, encoder.vit_width):
        raise ValueError(
            f"{pulid.name} takes face features of {encoder.id_cond_width} values and vision states "
            f"of {encoder.vit_width}, but these loaders give {found[0]} and {found[1]}. Load "
            "EVA02_CLIP_L_336_psz14_s6B.pt and an insightface pack with 512 values a face "
            "(antelopev2)."
        )
    comfy.model_management.load_models_gpu([pulid.encoder])
    device = pulid.encoder.load_device
    out = encoder(id_cond.to(device, torch.float32), [h.to(device, torch.float32) for h in hidden])
    return out.float().cpu()


def encode_joint(pulid: PulidModel, id_cond: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
    """Encode M photos of one person together: id_cond [M, 1280], hidden [M, S, 1024] -> [1, 32, C].

    The encoder's architecture takes any number of face vectors and vision states on its token axis.
    """
    return encode_tokens(pulid, id_cond[None], tuple(h.flatten(0, 1)[None] for h in hidden))


def encode_each(pulid: PulidModel, id_cond: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
    """Encode M photos one by one: id_cond [M, 1280], hidden [M, S, 1024] -> [M, 32, C]."""
    return encode_tokens(pulid, id_cond[:, None], hidden)


def encode_nothing(pulid: PulidModel, hidden: tuple[Tensor, ...]) -> Tensor:
    """Return the unconditional ID tokens [1, 32, C]: zeros of one photo's shape, encoded."""
    count = hidden[0].shape[-2]
    if count not in pulid.nobody:
        id_cond = torch.zeros(1, 1, pulid.encoder.model.id_cond_width)
        zeros = tuple(torch.zeros_like(h[:1]) for h in hidden)
        pulid.nobody[count] = encode_tokens(pulid, id_cond, zeros)
    return pulid.nobody[count]
