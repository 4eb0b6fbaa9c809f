"""Where an identity acts: a mask in pixels brought to the image tokens of a call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise_mask(mask: Tensor) -> Tensor | None:
    """Return a MASK of any shape as [M, H, W] float32 in 0..1, or None if it is all ones.

    Raises ValueError for a mask without pixels or with values that are no numbers.
    """
    if mask.ndim < 2 or 0 in mask.shape:
        raise ValueError(
            f"attn_mask has shape {list(mask.shape)}, expected [batch, height, width]."
        )
    mask = mask.float().reshape(-1, *mask.shape[-2:])
    if not torch.isfinite(mask).all():
        raise ValueError("attn_mask has values that are not numbers (NaN or infinite).")
    mask = mask.clamp(0, 1)
    return None if bool((mask == 1).all()) else mask


def to_tokens(
    mask: Tensor,
    latent: tuple[int, int],
    patch: int,
    area: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """mask [M, H, W] -> [M, N, 1]: its share of each image token, N = ceil(h/p) * ceil(w/p).

    ``latent`` is the picture's (h, w), ``area`` the part (h, w, top, left) that the call paints;
    an odd size is padded to the patch as FLUX pads it. Shrinking averages, so soft masks stay soft.
    """
    size = mask.shape[-2:]
    grows = latent[0] > size[0] or latent[1] > size[1]
    mask = F.interpolate(mask[:, None], latent, mode="bilinear" if grows else "area")
    if area is not None:
        height, width, top, left = area
        mask = mask[..., top : top + height, left : left + width]
    pad = [-s % patch for s in mask.shape[-2:]]
    mask = F.pad(mask, (0, pad[1], 0, pad[0]), mode="replicate")
    return F.avg_pool2d(mask, patch).flatten(1)[..., None].clamp(0, 1)
