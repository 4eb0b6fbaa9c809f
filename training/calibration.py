"""First weights with which an ID encoder tells people apart.

Fresh from its random numbers it hardly does: what all photos have in common is most of what its
norms pass on, and the residual stream collects it. Of the tokens' mean square only 9 % is a
person's own with drawn people, all of it the same in every token, and training first has to find
it. So a few photos set each norm's scale and shift: what it passes on has mean 0 and variance 1,
channel by channel, over photos and tokens. And they set how far the attention's scores lie apart,
so that the tokens look at different things. Then 79 % is a person's own.

The idea is that of P. Krähenbühl et al., "Data-dependent initializations of convolutional neural
networks" (arXiv 1511.06856). The file's layout stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..identity.id_former import HEAD_DIM, Attention, split_heads
from ..pulid_flux.cross_attention import CrossAttention
from .adapter import Adapter

SPREAD = 1.5  # standard deviation of a query's scores
LEAST = 1 / 8  # of the deviations that are made 1: a channel that says less stays small


@torch.no_grad()
def calibrate(adapter: Adapter, id_cond: Tensor, hidden: Sequence[Tensor]) -> None:
    """Set the norms before a new adapter's linear maps, and its encoder's queries, by N photos.

    id_cond [N, 1, 1280], five hidden states [N, S, 1024]. The adapter still changes nothing.
    """
    handles = []

    def once(module: nn.Module, change: Callable[..., Tensor]) -> None:
        def hook(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
            handle.remove()
            return change(module, inputs, out)

        handle = module.register_forward_hook(hook)
        handles.append(handle)

    readers = [layer.norm1 for layer in adapter.layers if isinstance(layer, CrossAttention)]
    for module in [*adapter.id_encoder.modules(), *readers]:
        if isinstance(module, nn.LayerNorm):
            once(module, centre)
        elif isinstance(module, Attention):
            once(module, spread)
    try:
        tokens = adapter.tokens(id_cond, hidden)
        for norm in readers:
            norm(tokens)
    finally:
        for handle in handles:
            handle.remove()


def centre(norm: nn.LayerNorm, _: Any, out: Tensor) -> Tensor:
    """Give each channel of a new norm's output [..., C] mean 0 and variance 1; return it so."""
    rows = out.flatten(0, -2)
    scale = 1 / rows.std(0, correction=0).clamp_min(LEAST)
    norm.weight.copy_(scale)
    norm.bias.copy_(-rows.mean(0) * scale)
    return out * norm.weight + norm.bias


def spread(attention: Attention, inputs: tuple[Tensor, Tensor], _: Any) -> Tensor:
    """Scale the queries until their scores lie ``SPREAD`` apart; return the output with them."""
    context, latents = attention.norm1(inputs[0]), attention.norm2(inputs[1])
    k, _ = attention.to_kv(torch.cat((context, latents), 1)).chunk(2, -1)
    q = split_heads(attention.to_q(latents))
    scores = q @ split_heads(k).transpose(-2, -1) / math.sqrt(HEAD_DIM)
    attention.to_q.weight.mul_(SPREAD / scores.std(-1).mean())
    return attention.forward(*inputs)
