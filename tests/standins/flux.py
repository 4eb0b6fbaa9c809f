"""A stand-in for FLUX.1: random weights under the true keys, for the real loaders.

The width is small; block counts, key names and layout are the original's, so ComfyUI detects
and runs it like the real file. The weights are random but arranged: sampling settles
on a smooth pattern that depends on the prompt and on the identity, instead of on noise. No
picture made with them shows what a trained model would show.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

HEAD_DIM = 128
LATENT_CHANNELS = 16
TEXT_WIDTH, TEXT_POOLED = 4096, 768  # T5-XXL's and CLIP-L's, so that other models fit too
CHROMA_HIDDEN = 3072  # ComfyUI takes it for granted
AXES = (16, 56, 56)  # rotary dimensions of index, row, column

Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, torch.Tensor]


def write_flux(
    path: Path,
    hidden: int = 128,
    *,
    guidance: bool = True,
    in_channels: int = 64,
    depth: int = 19,
    depth_single: int = 38,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 1,
) -> None:
    """Write a FLUX.1 checkpoint of width ``hidden``, a multiple of 128.

    Without ``guidance`` it is a schnell, with 384 ``in_channels`` a Fill.
    """
    shapes = flux_shapes(hidden, guidance, in_channels, depth, depth_single)
    weights = random_weights(shapes, torch.Generator().manual_seed(seed))
    arrange_flux(weights, hidden)
    save(weights, path, dtype)


def write_chroma(path: Path, depth: int = 1, depth_single: int = 2, seed: int = 4) -> None:
    """Write a shallow Chroma in bfloat16, 1.5 GB: ComfyUI takes its full width for granted."""
    shapes = chroma_shapes(depth, depth_single)
    weights = random_weights(shapes, torch.Generator().manual_seed(seed))
    arrange_flux(weights, CHROMA_HIDDEN)
    weights["distilled_guidance_layer.out_proj.weight"] *= 0.1
    save(weights, path, torch.bfloat16)


def chroma_shapes(depth: int, depth_single: int) -> Shapes:
    """Return the shape of every tensor of a Chroma under its original key."""
    hidden, inner = CHROMA_HIDDEN, 5120
    shapes = {
        key: shape
        for key, shape in flux_shapes(hidden, False, 64, depth, depth_single).items()
        if not re.search(r"time_in|vector_in|_mod\.|modulation", key)
    }
    matrices = {"in_proj": (inner, 64), "out_proj": (hidden, inner)}
    for i in range(5):
        matrices |= {f"layers.{i}.{name}": (inner, inner) for name in ("in_layer", "out_layer")}
        shapes[f"distilled_guidance_layer.norms.{i}.scale"] = (inner,)
    for key, shape in matrices.items():
        shapes[f"distilled_guidance_layer.{key}.weight"] = shape
        shapes[f"distilled_guidance_layer.{key}.bias"] = shape[:1]
    return shapes


def flux_shapes(
    hidden: int, guidance: bool, in_channels: int, depth: int, depth_single: int
) -> Shapes:
    """Return the shape of every tensor of a FLUX.1 checkpoint under its original key."""
    shapes: Shapes = {}

    def linear(key: str, outputs: int, inputs: int) -> None:
        shapes[f"{key}.weight"] = (outputs, inputs)
        shapes[f"{key}.bias"] = (outputs,)

    linear("img_in", hidden, in_channels)
    linear("txt_in", hidden, TEXT_WIDTH)
    embedders = {"time_in": 256, "vector_in": TEXT_POOLED}
    for name, width in (embedders | {"guidance_in": 256} if guidance else embedders).items():
        linear(f"{name}.in_layer", hidden, width)
        linear(f"{name}.out_layer", hidden, hidden)
    for block in (f"double_blocks.{i}.{stream}" for i in range(depth) for stream in ("img", "txt")):
        linear(f"{block}_mod.lin", 6 * hidden, hidden)
        linear(f"{block}_attn.qkv", 3 * hidden, hidden)
        linear(f"{block}_attn.proj", hidden, hidden)
        linear(f"{block}_mlp.0", 4 * hidden, hidden)
        linear(f"{block}_mlp.2", hidden, 4 * hidden)
        shapes[f"{block}_attn.norm.query_norm.scale"] = (HEAD_DIM,)
        shapes[f"{block}_attn.norm.key_norm.scale"] = (HEAD_DIM,)
    for block in (f"single_blocks.{i}" for i in range(depth_single)):
        linear(f"{block}.modulation.lin", 3 * hidden, hidden)
        linear(f"{block}.linear1", 7 * hidden, hidden)
        linear(f"{block}.linear2", hidden, 5 * hidden)
        shapes[f"{block}.norm.query_norm.scale"] = (HEAD_DIM,)
        shapes[f"{block}.norm.key_norm.scale"] = (HEAD_DIM,)
    linear("final_layer.linear", 4 * LATENT_CHANNELS, hidden)
    linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    return shapes


def random_weights(shapes: Shapes, generator: torch.Generator) -> Weights:
    """Return N(0, 1/fan_in) matrices, ones for norm weights, zeros for biases; float32."""
    weights: Weights = {}
    for key, shape in shapes.items():
        if len(shape) >= 2:
            noise = torch.randn(shape, generator=generator)
            weights[key] = noise / math.sqrt(math.prod(shape[1:]))
        else:
            weights[key] = torch.full(shape, float(key.endswith(("weight", "scale"))))
    return weights


def arrange_flux(weights: Weights, hidden: int) -> None:
    """Turn random weights into a model whose samples are smooth patterns, in place.

    The velocity becomes ``gain (x - target)``: what enters through ``img_in`` is read back by
    ``final_layer``, and the target is what the blocks wrote beside it.
    """
    mean, detail = patch_bases(hidden)
    inward = torch.cat([mean[..., None], detail], dim=2) @ patch_frequencies()  # [hidden, 16, 4]
    inward = inward.reshape(hidden, 4 * LATENT_CHANNELS)
    generator = torch.Generator().manual_seed(hidden)
    ground = common_ground(hidden)
    weights["img_in.weight"] *= 0.5
    weights["img_in.weight"][:, : inward.shape[1]] = 0.5 * inward
    weights["img_in.bias"] = ground - inward @ (inward.T @ ground)
    weights["final_layer.linear.weight"] = 4.0 * inward.T
    if "final_layer.adaLN_modulation.1.weight" in weights:
        weights["final_layer.adaLN_modulation.1.weight"].zero_()
    for key, value in weights.items():
        if key.endswith("mod.lin.bias") or key.endswith("modulation.lin.bias"):
            value.view(-1, 3, hidden)[:, 2] = 0.2
        elif key.endswith("mod.lin.weight") or key.endswith("modulation.lin.weight"):
            value *= 0.1
            value.view(-1, 3, hidden, hidden)[:, 2] = 0.0  # one gate for all channels
        elif key.endswith(("attn.qkv.bias", "linear1.bias")):
            value[: 2 * hidden] = 2.0 * torch.randn(2 * hidden, generator=generator)
        elif key.endswith("_norm.scale"):
            value.copy_(rotary_window())
        elif key.endswith(("img_attn.qkv.weight", "img_mlp.0.weight", "linear1.weight")):
            heard = value[0 if "mlp" in key else 2 * hidden :]  # by values and MLPs
            heard.copy_(without_ground(heard))
        elif key.endswith(("img_attn.proj.weight", "img_mlp.2.weight", "linear2.weight")):
            value[:, 0 if "mlp" in key else hidden :] *= 0.1  # attention draws, MLPs touch up
            value.copy_(without_detail(value))


def patch_bases(hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where a 2x2 patch lives in the hidden state: [hidden, 16] and [hidden, 16, 3].

    The first holds the patch's mean of each latent channel, the second what differs inside it.
    All columns are orthonormal and have mean 0, so that a LayerNorm keeps them.
    """
    noise = torch.randn(hidden, 4 * LATENT_CHANNELS, generator=torch.Generator().manual_seed(7))
    basis = torch.linalg.qr(noise - noise.mean(dim=0)).Q.reshape(hidden, LATENT_CHANNELS, 4)
    return basis[..., 0], basis[..., 1:]


def patch_frequencies() -> torch.Tensor:
    """Return the orthonormal [4, 4] transform of a 2x2 patch: mean, columns, rows, diagonal."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return torch.kron(pair, pair) / 2


def common_ground(hidden: int) -> torch.Tensor:
    """Return what every image token carries [hidden]; it keeps the LayerNorms' gain steady."""
    return torch.randn(hidden, generator=torch.Generator().manual_seed(8))


def without_ground(matrix: torch.Tensor) -> torch.Tensor:
    """Return ``matrix`` [n, hidden], deaf to the common ground."""
    ground = common_ground(matrix.shape[1])
    ground = ground / ground.norm()
    return matrix - torch.outer(matrix @ ground, ground)


def without_detail(matrix: torch.Tensor) -> torch.Tensor:
    """Return ``matrix`` [hidden, n], silenced where a patch's inner differences live."""
    detail = patch_bases(matrix.shape[0])[1].flatten(1)
    return matrix - detail @ (detail.T @ matrix)


def rotary_window() -> torch.Tensor:
    """Return query/key scales [128] that let attention follow the picture's slow waves only."""
    speed = [10000 ** (-2 * (i // 2) / size) for size in AXES for i in range(size)]
    return torch.tensor([4.0 if 0.06 < s < 0.45 else 0.0 for s in speed])


def save(weights: Weights, path: Path, dtype: torch.dtype) -> None:
    """Write ``weights`` as ``dtype``."""
    save_file({key: value.to(dtype).contiguous() for key, value in weights.items()}, path)
