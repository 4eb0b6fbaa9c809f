"""A small EVA02-CLIP vision tower in the layout, and under the name, of the original file."""

from __future__ import annotations

from pathlib import Path

import torch
from golden.weights import golden_state_dict

EVA_FILE = "EVA02_CLIP_L_336_psz14_s6B.pt"
EVA_WIDTH = 128
EVA_POOLED = 64
EVA_DEPTH = 6
EVA_SIDE = 56
PATCH = 14
# The original's names of a block's parts, and timm's, which open_clip's files have.
TIMM_NAMES = {
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
    "attn.inner_attn_ln": "attn.norm",
    "mlp.ffn_ln": "mlp.norm",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.w3": "mlp.fc2",
}


def eva_shapes(
    width: int = EVA_WIDTH,
    depth: int = EVA_DEPTH,
    image_size: int = EVA_SIDE,
    pooled: int = EVA_POOLED,
) -> dict[str, tuple[int, ...]]:
    """Return key and shape of every tensor of a tower, as ``visual.*``."""
    hidden = width * 8 // 3
    norm = {"weight": (width,), "bias": (width,)}
    block = {f"norm1.{k}": v for k, v in norm.items()}
    block |= {"attn.q_bias": (width,), "attn.v_bias": (width,)}
    block |= {f"attn.{k}_proj.weight": (width, width) for k in "qkv"}
    block |= {f"attn.inner_attn_ln.{k}": v for k, v in norm.items()}
    block |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
    block |= {f"norm2.{k}": v for k, v in norm.items()}
    for name in ("w1", "w2"):
        block |= {f"mlp.{name}.weight": (hidden, width), f"mlp.{name}.bias": (hidden,)}
    block |= {"mlp.ffn_ln.weight": (hidden,), "mlp.ffn_ln.bias": (hidden,)}
    block |= {"mlp.w3.weight": (width, hidden), "mlp.w3.bias": (width,)}
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (image_size // PATCH) ** 2 + 1, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(depth):
        shapes |= {f"blocks.{i}.{k}": v for k, v in block.items()}
    shapes |= {f"norm.{k}": v for k, v in norm.items()}
    shapes |= {"head.weight": (pooled, width), "head.bias": (pooled,)}
    return {f"visual.{k}": v for k, v in shapes.items()}


def write_eva_clip(path: Path, **sizes: int) -> Path:
    """Write a tower of ``sizes`` (see ``eva_shapes``) beside a scrap of the text tower.

    ``path`` is a folder, which gets the real file name, or a file. Returns the file.
    """
    path = Path(path)
    if path.suffix != ".pt":
        path.mkdir(parents=True, exist_ok=True)
        path = path / EVA_FILE
    tensors = golden_state_dict(eva_shapes(**sizes))
    # The original carries rotary tables and a text tower; a reader has to pass over both.
    tensors["visual.rope.freqs_cos"] = torch.zeros(4, 64)
    tensors["text.token_embedding.weight"] = torch.zeros(8, 8)
    tensors["logit_scale"] = torch.tensor(4.6)
    torch.save(tensors, path)
    return path


def timm_layout(original: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the vision tower of an original file under timm's names, below ``prefix``."""
    tower = {}
    for key, value in original.items():
        if key.startswith("visual.") and not key.startswith("visual.rope."):
            key = key.removeprefix("visual.")
            for theirs, timms in TIMM_NAMES.items():
                key = key.replace(theirs, timms)
            tower[prefix + key] = value
    return tower
