"""Where identity enters FLUX.

After every second double block and every fourth single block the authors add
``weight * attention(image tokens, ID tokens)`` to the image tokens. ComfyUI lets a forward's
blocks be replaced through ``transformer_options["patches_replace"]["dit"]``; here each replaced
block runs whatever was there before and then adds the identity. When, and on which rows of the
batch, is the same for all model families: identity/hooks.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..identity.hooks import IdentityHooks, Weights
from ..identity.rows import Rows
from ..identity.run import SamplingRun
from .blocks import Acting, FluxForward, IdentityBlock
from .folding import FluxModel
from .uses import FluxUse

KEY = "pulid_flux"
NOT_INSERTED = (
    "PuLID-Flux: the identity's window was open for {forwards} model calls, but no FLUX block "
    "asked for it, so the picture would not show the person. Another node has replaced FLUX's "
    "forward or skipped it in those steps (an accelerator or cache such as TeaCache or WaveSpeed, "
    "or a pack that copies the forward). Remove or bypass that node, or start its cache after the "
    "identity's window. Some packs change the loaded model itself: then unload the models as well "
    "(ComfyUI's Unload Models), since it stays changed until it is loaded again."
)


class FluxHooks(IdentityHooks):
    """All identities applied to one FLUX model."""

    key = KEY
    not_inserted = NOT_INSERTED
    target: FluxModel
    uses: tuple[FluxUse, ...]

    def forward_of(self, run: SamplingRun, x: Tensor) -> FluxForward:
        """Return an empty record of the forward of the noisy latent ``x`` [B, C, H, W]."""
        return FluxForward(run=run, image_tokens=math.prod(self.grid(x)))

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of image tokens of a latent; FLUX pads an odd one."""
        height, width = (-(-size // self.target.patch_size) for size in x.shape[-2:])
        return height, width

    def acting(
        self, layers: nn.ModuleList, weights: Weights, run: SamplingRun, x: Tensor, rows: Rows
    ) -> list[Acting]:
        """Return what acts on these rows: one sum of all uses of the folded layers."""
        return [Acting(layers, *self.gains(weights, run, x, rows))]

    def gains(
        self, weights: Weights, run: SamplingRun, x: Tensor, rows: Rows
    ) -> list[Tensor | None]:
        """Return the summed gains [rows, N, 1] or [] of these uses in double and single blocks."""
        total: list[Any] = [0.0, 0.0]
        for i, weight in weights.items():
            use, share = self.uses[i], weight
            if use.mask is not None:
                share = weight * run.mask(i, use.mask, x, rows, self.grid(x))
            total[0] = total[0] + share * use.double_weight
            total[1] = total[1] + share * use.single_weight
        dtype = self.target.dtype
        return [
            gain.to(dtype)
            if isinstance(gain, Tensor)
            else torch.full((), gain, dtype=dtype, device=x.device)
            if gain
            else None
            for gain in total
        ]

    def put_in_place(self, forward: FluxForward, replace: dict[str, dict]) -> dict[str, dict]:
        """Chain this forward's identity onto the blocks."""
        dit = dict(replace.get("dit", {}))
        for number, (name, index, _) in enumerate(self.target.blocks):
            single = name == "single_block"
            acting = []
            for rows, sets in forward.rows:
                pairs = [(s.layers[number], s.single if single else s.double) for s in sets]
                if pairs := [pair for pair in pairs if pair[1] is not None]:
                    acting.append((rows.rows, pairs))
            dit[name, index] = IdentityBlock(forward, acting, single, dit.get((name, index)))
        return {**replace, "dit": dit}
