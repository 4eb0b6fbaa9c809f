"""The drawn world's VAE: each 4x4 pixels become 16 numbers, by the best linear map there is.

Principal components of drawn pictures; what they leave out is less than 2 % of the variance. Linear
both ways, so gradients pass through it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.latent_formats
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH, CHANNELS = 4, 16  # FLUX's latents have 16 channels
SPREAD = 0.5  # of each channel's deviation, what power it is divided by: details weigh more


@dataclass(frozen=True)
class Codec:
    """mean [48] of a patch; inward [48, 16] and outward [16, 48] maps, patches in -1..1."""

    mean: Tensor
    inward: Tensor
    outward: Tensor

    def encode(self, pictures: Tensor) -> Tensor:
        """pictures [B, 3, H, W] in 0..1 -> latents [B, 16, H / 4, W / 4] as the VAE's."""
        flat = pixel_unshuffle(2 * pictures - 1, PATCH).movedim(1, -1)
        own = ((flat - self.mean.to(flat)) @ self.inward.to(flat)).movedim(-1, 1)
        return comfy.latent_formats.Flux().process_out(own)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as the model samples them -> pictures, about 0..1: beyond, a gradient stays."""
        flat = latents.movedim(1, -1) @ self.outward.to(latents) + self.mean.to(latents)
        return (pixel_shuffle(flat.movedim(-1, 1), PATCH) + 1) / 2

    def state_dict(self) -> dict[str, Tensor]:
        """Return its tensors for a file."""
        return dict(vars(self))


def fit(pictures: Tensor) -> Codec:
    """Return the codec of pictures [B, 3, H, W] in 0..1."""
    flat = pixel_unshuffle(2 * pictures - 1, PATCH).movedim(1, -1).reshape(-1, 3 * PATCH**2)
    mean = flat.mean(0)
    centred = (flat - mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    basis = vectors.flip(1)[:, :CHANNELS]
    basis = basis * basis.sum(0).sign()  # the same on every machine
    deviation = (centred @ basis).std(0) ** SPREAD
    # all channels together of variance 1
    deviation = deviation * ((centred @ basis) / deviation).square().mean().sqrt()
    return Codec(mean, (basis / deviation).float(), (basis * deviation).T.float().contiguous())
