"""The cross-attention layers of SDXL's UNet, in the order of PuLID's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

Key = tuple[str, int, int]  # block, its number, transformer: of patches_replace["attn2"]


@dataclass(frozen=True)
class Layer:
    """One cross-attention layer (attn2)."""

    key: Key
    width: int
    context: int  # width of the text's tokens


def attention_layers(unet: UNetModel) -> tuple[Layer, ...]:
    """Return every attn2 of the UNet: down blocks, up blocks, then the middle block.

    That is the order of diffusers' attn_processors, by which the files number them: layer i has
    the number 2 i + 1. The host runs the middle block before the up blocks, as its number 0.
    """
    blocks = [("input", number, block) for number, block in enumerate(unet.input_blocks)]
    blocks += [("output", number, block) for number, block in enumerate(unet.output_blocks)]
    blocks.append(("middle", 0, unet.middle_block))
    return tuple(
        Layer((name, number, index), attn.heads * attn.dim_head, attn.to_k.in_features)
        for name, number, block in blocks
        for index, attn in cross_attentions(block)
    )


def cross_attentions(block: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Yield each attn2 of a block of the UNet with its place in the block's transformer."""
    for part in block or ():
        if isinstance(part, SpatialTransformer):
            for index, transformer in enumerate(part.transformer_blocks):
                if isinstance(transformer, BasicTransformerBlock) and transformer.attn2 is not None:
                    yield index, transformer.attn2
