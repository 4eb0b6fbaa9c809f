"""What training hands from one part to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn.functional import layer_norm

from .losses import wide

BLOCKS, QUERIES = "blocks", "queries"  # what alignment compares


@dataclass(frozen=True)
class Conditions:
    """What a batch of pictures is made from, as ComfyUI's text encoders give it.

    text [B, L, C]; pooled [B, P]; guidance of a distilled FLUX (None: the host's own value);
    references: latents [B, C, h, w] of Kontext; more: further entries of a ComfyUI conditioning
    (``attention_mask``, ``width`` …). On the CPU, where nothing waits for a card.
    """

    text: Tensor
    pooled: Tensor | None = None
    guidance: float | None = None
    references: tuple[Tensor, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def entries(self) -> dict[str, Any]:
        """Return them under ComfyUI's names."""
        named = {"guidance": self.guidance, "reference_latents": list(self.references) or None}
        named = {key: value for key, value in named.items() if value is not None}
        # the host asks for pooled text of models that have none, too
        return {"cross_attn": self.text, "pooled_output": self.pooled, **named, **self.more}


@dataclass
class Features:
    """What one forward's layers saw: image features Q and text features K, for alignment.

    ``kind`` BLOCKS takes what enters each block of FLUX, normalised; QUERIES each attention's
    queries, and the keys of the text. Layers come in the order in which they ran.
    """

    kind: str = BLOCKS
    q: list[Tensor] = field(default_factory=list)  # [B, heads, N, d]; blocks have one head
    k: list[Tensor] = field(default_factory=list)  # [B, heads, L, d]
    open: bool = True  # False after the forward: a recomputed block comes by again

    def record(self, q: Tensor, k: Tensor) -> None:
        """Keep one layer's features, as views where they are kept for the gradient anyway."""
        if self.open:
            self.q.append(q)
            self.k.append(k)

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Return Q and K of one layer as the losses take them."""
        return self.ready(self.q[number]), self.ready(self.k[number])

    def ready(self, x: Tensor) -> Tensor:
        """Return features as the losses take them: a block's inputs without their length."""
        return layer_norm(wide(x), x.shape[-1:]) if self.kind == BLOCKS else x
