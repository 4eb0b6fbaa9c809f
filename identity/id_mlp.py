"""The ID encoder of PuLID for SDXL v1: small MLPs, no attention (the authors' IDEncoder).

After the authors' description and released weights (arXiv 2404.16022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .id_former import SCALES, mlp

NEEDS = "but it needs matrices, the last of 'body' with a multiple of the ID tokens' width"


@dataclass(frozen=True)
class Sizes:
    """Widths of an IDMLP; the defaults are those of the authors' released file."""

    body: int = 1024  # the hidden width of the MLP of the face vector
    mapping: int = 1024  # the hidden width of the MLPs of the vision states
    face_tokens: int = 5  # tokens that a face vector becomes
    output: int = 2048  # width of the ID tokens
    id_cond: int = 1280  # face vector and pooled vision vector
    vit: int = 1024  # the vision tower's hidden states


class IDMLP(nn.Module):
    """A face vector and vision-tower states of one photo become ID tokens.

    ``operations`` makes the layers (torch.nn, or the host's operations); ``where`` is their device
    and dtype.
    """

    def __init__(self, sizes: Sizes, operations: Any = nn, **where: Any):
        super().__init__()
        self.sizes = sizes

        tokens = sizes.face_tokens * sizes.output
        self.body = mlp(sizes.id_cond, sizes.body, tokens, operations, **where)
        for i in range(SCALES):
            for name in (f"mapping_{i}", f"mapping_patch_{i}"):
                one = mlp(sizes.vit, sizes.mapping, sizes.output, operations, **where)
                setattr(self, name, one)

    def forward(self, id_cond: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """id_cond [B, 1, 1280], five hidden states [B, 577, 1024] -> [B, 10, 2048].

        The tokens of the face vector come first, then one for each scale: its class token's and
        the mean of its patches'.
        """
        tokens = [self.body(id_cond[:, 0]).unflatten(-1, (-1, self.sizes.output))]
        for i, states in enumerate(hidden):
            whole = getattr(self, f"mapping_{i}")(states[:, :1])
            patches = getattr(self, f"mapping_patch_{i}")(states[:, 1:])
            tokens.append(whole + patches.mean(1, keepdim=True))
        return torch.cat(tokens, 1)


def read_sizes(shapes: Mapping[str, torch.Size]) -> Sizes:
    """Return the sizes of the IDMLP whose tensors have these shapes.

    Raises KeyError naming the key that is missing, or has a shape that no IDMLP has.
    """

    def axes(key: str) -> torch.Size:
        if len(shapes[key]) != 2:
            raise KeyError(key)
        return shapes[key]

    body, id_cond = axes("body.0.weight")
    mapping, vit = axes("mapping_0.0.weight")
    output = axes("mapping_0.6.weight")[0]
    rows = axes("body.6.weight")[0]
    if output == 0 or rows == 0 or rows % output:
        raise KeyError("body.6.weight")
    return Sizes(body, mapping, rows // output, output, id_cond, vit)
