"""Where identity enters SDXL.

ComfyUI lets the attention of a cross-attention layer (attn2) be replaced through
``transformer_options["patches_replace"]["attn2"]``: such a function gets q, k and v and returns
what goes into the layer's ``to_out``. Here each of the 70 runs whatever was there before and then
adds the identity. When, and on which rows of the batch, is the same for all model families:
identity/hooks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ..identity.hooks import Forward, IdentityHooks, Weights
from ..identity.masks import to_tokens
from ..identity.rows import Rows
from ..identity.run import SamplingRun
from .id_attention import identity_term
from .uses import SDXLModel, SDXLUse

KEY = "pulid_sdxl"
NOT_INSERTED = (
    "PuLID-SDXL: the identity's window was open for {forwards} model calls, but no cross-attention "
    "layer of SDXL asked for it, so the picture would not show the person. Another node has "
    "replaced the UNet's forward or skipped it in those steps (an accelerator or cache, or a pack "
    "that copies the forward). Remove or bypass that node, or start its cache after the identity's "
    "window."
)

OTHER_TEXT = (
    "PuLID-SDXL: another node has replaced SDXL's cross-attention: its layers get {text} rows of "
    "text for {image} rows of the image, which only that node's own attention can tell apart, so "
    "the identity cannot be added. Bypass that node (for normalized attention guidance, ComfyUI's "
    "own node works), then load the model anew: such a node may leave it changed when a run stops."
)


@dataclass(frozen=True)
class Acting:
    """One use of an identity that acts on some rows of a forward.

    ``weight`` is a tensor [] on the forward's device: as a number it would make torch.compile start
    anew for each. ``number`` is the use's. ``mask`` [1 or pictures, h, w] covers the
    call's latent.
    """

    layers: nn.ModuleList
    use: SDXLUse
    number: int
    weight: Tensor
    mask: Tensor | None


@dataclass(kw_only=True)
class SDXLForward(Forward):
    """What acts in one forward of SDXL: ``rows`` has pairs of Rows and what acts on them."""

    total: int  # rows of the batch
    latent: tuple[int, int]  # height and width of the call's latent

    def rows_in_layer(self, found: int, extra: dict) -> list[tuple[Rows, list[Acting]]]:
        """Return what acts on which of a layer's ``found`` rows."""
        if found == self.total:
            return self.rows
        kinds = {(rows.unconditional, rows.area): acting for rows, acting in self.rows}
        own = self.run.prompts.rows_in_layer(found, self.total, self.run.pictures, extra)
        pairs = ((rows, kinds.get((rows.unconditional, rows.area))) for rows in own)
        return [pair for pair in pairs if pair[1]]


@dataclass(frozen=True, eq=False)  # torch 2.11's compiler hashes it before it has its fields
class IdentityAttention:
    """The attention of one layer in one forward, with the identity added to what it returns."""

    forward: SDXLForward
    number: int  # of the layer
    before: Callable | None  # what another pack, or another wrapper, put here
    masks: dict[tuple, Tensor]  # already averaged over a layer's tokens in this forward

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        """q [B, N, C], k, v [B, L, C] -> [B, N, C], before the layer's ``to_out``.

        Raises RuntimeError where text and image are not of the same rows: the host's attention
        would take the surplus text for more tokens, without an error.
        """
        if self.before is not None:
            out = self.before(q, k, v, extra)
        elif len(k) != len(q):
            raise RuntimeError(OTHER_TEXT.format(text=len(k), image=len(q)))
        else:
            precision = extra.get("attn_precision")
            heads, options = extra["n_heads"], {"transformer_options": extra}
            out = optimized_attention(q, k, v, heads, attn_precision=precision, **options)
        self.forward.run.inserted = True
        parts, done = [], 0
        for rows, acting in self.forward.rows_in_layer(len(q), extra):
            own = rows.rows
            added = self.add(q[own], out[own], rows, acting, extra)
            parts += [out[done : own.start], added] if own.start > done else [added]
            done = own.stop
        if done < len(q):
            parts.append(out[done:])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def add(self, q: Tensor, out: Tensor, rows: Rows, acting: list[Acting], extra: dict) -> Tensor:
        """Return ``out`` [rows, N, C] plus all identities, each made from ``out`` itself."""
        total = out
        for one in acting:
            layer, use = one.layers[self.number], one.use
            term = identity_term(layer, q, out, extra["n_heads"], use.num_zero, use.projection)
            gain = one.weight
            if one.mask is not None:
                gain = gain * self.mask(one, rows, tuple(extra["activations_shape"][-2:]))
            total = torch.addcmul(total, term, gain)
        return total.to(out.dtype)

    def mask(self, one: Acting, rows: Rows, grid: tuple[int, int]) -> Tensor:
        """Return a mask for these rows' tokens [rows, N, 1]; ``grid`` is the layer's own."""
        key = (one.number, rows.area, grid)
        if key not in self.masks:
            self.masks[key] = to_tokens(one.mask, self.forward.latent, grid)
        tokens = self.masks[key]
        if len(tokens) == 1:
            return tokens
        first, last = rows.rows.start, rows.rows.stop
        return tokens[torch.arange(first, last, device=tokens.device) % rows.pictures]


class SDXLHooks(IdentityHooks):
    """All identities applied to one SDXL model."""

    key = KEY
    not_inserted = NOT_INSERTED
    target: SDXLModel
    uses: tuple[SDXLUse, ...]

    def forward_of(self, run: SamplingRun, x: Tensor) -> SDXLForward:
        """Return an empty record of the forward of the noisy latent ``x`` [B, 4, H, W]."""
        return SDXLForward(run=run, total=x.shape[0], latent=tuple(x.shape[-2:]))

    def acting(
        self, layers: nn.ModuleList, weights: Weights, run: SamplingRun, x: Tensor, rows: Rows
    ) -> list[Acting]:
        """Return what acts on these rows: each use by itself, since their projections differ."""
        found = []
        for i, weight in weights.items():
            use = self.uses[i]
            mask = None if use.mask is None else run.mask_of(i, use.mask, x, rows)
            found.append(Acting(layers, use, i, torch.full((), weight, device=x.device), mask))
        return found

    def put_in_place(self, forward: SDXLForward, replace: dict[str, dict]) -> dict[str, dict]:
        """Chain this forward's identity onto the cross-attention layers."""
        attn2, masks = dict(replace.get("attn2", {})), {}
        found = {key: attn2.get(key, attn2.get(key[:2])) for key in self.target.layers}
        for number, (key, before) in enumerate(found.items()):
            attn2[key] = IdentityAttention(forward, number, before, masks)
        return {**replace, "attn2": attn2}
