"""EVA02-CLIP's vision tower, which tells PuLID what a face looks like."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher

from ..state_dicts import read_state_dict
from .packages import require
from .pixels import preprocess
from .weights import device_of, hold, load_strictly, on_device

__all__ = ["EvaClip", "encode_pixels", "load_eva_clip", "preprocess"]

EXPECTED = "EVA02_CLIP_L_336_psz14_s6B.pt (EVA02-CLIP-L-14-336, about 856 MB)"
PURPOSE = "Load EVA-CLIP"
OLDEST_TIMM = (1, 0, 22)
HEAD_DIM = 64
SCALES = 5
# open_clip's name of the tower; its description names timm's.
DESCRIPTION = "EVA02-L-14-336"
# Keys that only this kind of tower has, in the original's names and in timm's: the norm inside
# attention, and the gate, from which the MLP's width is read.
ORIGINAL_KEYS = ("blocks.0.attn.inner_attn_ln.weight", "blocks.0.mlp.w1.weight")
TIMM_KEYS = ("blocks.0.attn.norm.weight", "blocks.0.mlp.fc1_g.weight")
BLOCK = re.compile(r"\bblocks\.\d+\.")
PART = re.compile(r"blocks\.\d+\.|patch_embed\.|norm\.|head\.|pos_embed$|cls_token$")

# EVA-CLIP towers of the same kind that PuLID was not trained with: width, depth, image size.
OTHER_TOWERS = {
    (768, 12, 224): "EVA02-CLIP-B-16 (EVA02_CLIP_B_psz16_s8B.pt)",
    (1024, 24, 224): "EVA02-CLIP-L-14 at 224 pixels (EVA02_CLIP_L_psz14_s4B.pt)",
}


@dataclass(frozen=True)
class EvaClip:
    """A loaded vision tower: ``image_size`` in pixels, ``name`` of the file it came from."""

    patcher: ModelPatcher
    image_size: int
    name: str


@dataclass(frozen=True)
class TowerSizes:
    """The sizes of a vision tower, all read from its weights."""

    width: int
    depth: int
    patch: int
    side: int
    hidden: int
    output: int


def load_eva_clip(path: Path) -> EvaClip:
    """Load EVA-CLIP's vision tower from the original file, open_clip's, or timm's.

    Raises FileNotFoundError, ValueError for another model or a damaged file (naming the key), and
    RuntimeError where timm or open_clip is missing.
    """
    check_timm()
    require("open_clip", PURPOSE)
    path = Path(path)
    tensors, prefix = picture_tower(read_state_dict(path, EXPECTED), path)
    sizes = read_sizes(tensors, prefix, path)
    model = build_tower(sizes)
    renamed, name_in_file = rename_for_timm(tensors, prefix, model)
    half = comfy.model_management.should_use_fp16(comfy.model_management.text_encoder_device())
    # bfloat16 would cost about 1 % on the hidden states, float16 a tenth of that.
    load_strictly(model, renamed, path, torch.float16 if half else torch.float32, name_in_file)
    return EvaClip(patcher=hold(model), image_size=sizes.side * sizes.patch, name=path.name)


def check_timm() -> None:
    """Raise RuntimeError where timm is missing, or too old to build a model without weights."""
    timm = require("timm", PURPOSE)
    if tuple(int(n) for n in re.findall(r"\d+", timm.__version__)[:3]) < OLDEST_TIMM:
        wanted = ".".join(map(str, OLDEST_TIMM))
        raise RuntimeError(
            f"{PURPOSE} needs timm {wanted} or later, found {timm.__version__}. Update it with the "
            f'Python that runs ComfyUI:\n    python -m pip install -U "timm>={wanted}"'
        )


def picture_tower(
    tensors: Mapping[str, torch.Tensor], path: Path
) -> tuple[dict[str, torch.Tensor], str]:
    """Return the vision tower's tensors, named as in the file, and the prefix of those names.

    Raises ValueError if ``tensors`` hold no such tower.
    """
    prefixes = ("visual.trunk.", "visual.", "")
    prefix = next((p for p in prefixes if f"{p}patch_embed.proj.weight" in tensors), None)
    if prefix is None or f"{prefix}blocks.0.attn.q_proj.weight" not in tensors:
        some = ", ".join(sorted(tensors)[:3])
        raise ValueError(
            f"{path} is not EVA02-CLIP's vision tower. Expected {EXPECTED}; found {len(tensors)} "
            f"tensors such as {some}."
        )
    # Rotary tables are computed, not read.
    tower = {k: v for k, v in tensors.items() if k.startswith(prefix) and ".rope." not in f".{k}"}
    return tower, prefix


def read_sizes(tensors: Mapping[str, torch.Tensor], prefix: str, path: Path) -> TowerSizes:
    """Read every size from the shapes.

    Raises ValueError if they are not those of the EVA02-CLIP that PuLID uses.
    """
    tower = {key.removeprefix(prefix): value for key, value in tensors.items()}
    original = any(".w1." in key or "inner_attn_ln" in key for key in tower)
    norm, gate = ORIGINAL_KEYS if original else TIMM_KEYS
    for key in ("pos_embed", "head.weight", norm, gate):
        if key not in tower:
            raise ValueError(
                f"{path} is not the EVA-CLIP that PuLID uses: it has no {prefix}{key}. "
                f"Expected {EXPECTED}."
            )
    width, _, patch, _ = tower["patch_embed.proj.weight"].shape
    blocks = {int(m[1]) for key in tower if (m := re.match(r"blocks\.(\d+)\.", key))}
    positions = tower["pos_embed"].shape[1]
    side = math.isqrt(positions - 1)
    sizes = TowerSizes(
        width=width,
        depth=max(blocks) + 1,
        patch=patch,
        side=side,
        hidden=tower[gate].shape[0],
        output=tower["head.weight"].shape[0],
    )
    found = f"width {width}, {sizes.depth} blocks, {side * patch} pixels"
    other = OTHER_TOWERS.get((width, sizes.depth, side * patch))
    if other:
        raise ValueError(f"{path} is {other}: {found}. PuLID needs {EXPECTED}.")
    if width % HEAD_DIM or sizes.depth <= SCALES or side * side + 1 != positions:
        raise ValueError(
            f"{path} has sizes that no EVA02-CLIP tower has ({found}, {positions} positions). "
            f"Expected {EXPECTED}."
        )
    return sizes


def build_tower(sizes: TowerSizes) -> torch.nn.Module:
    """Build the tower that open_clip describes, in ``sizes`` and without weights (meta device).

    Its rotary tables are in no file: they are computed here, on the CPU.
    """
    timm = require("timm", PURPOSE)
    layers = require("timm.layers", PURPOSE)
    described = require("open_clip", PURPOSE).get_model_config(DESCRIPTION)["vision_cfg"]
    heads = sizes.width // HEAD_DIM
    with torch.device("meta"):
        model = timm.create_model(
            described["timm_model_name"],
            global_pool=described["timm_pool"],
            img_size=sizes.side * sizes.patch,
            patch_size=sizes.patch,
            num_classes=sizes.output,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=heads,
            # timm multiplies and cuts; the half keeps the product above the whole number.
            mlp_ratio=(sizes.hidden + 0.5) / sizes.width,
        )
    model.rope = layers.RotaryEmbeddingCat(
        sizes.width // heads,
        in_pixels=False,
        feat_shape=[sizes.side, sizes.side],
        ref_feat_shape=model.rope.ref_feat_shape,
    )
    return model


def rename_for_timm(
    tensors: Mapping[str, torch.Tensor], prefix: str, model: torch.nn.Module
) -> tuple[dict[str, torch.Tensor], Callable[[str], str]]:
    """Return the tensors under ``model``'s names, and a function from those to the file's names.

    timm's own filter renames them. It passes the same tensors on, so identity tells which is which;
    a key that the file lacks is named after its counterpart in another block.
    """
    # The filter handles other models too; foreign keys must not make it guess one of those.
    known = {k: v for k, v in tensors.items() if PART.match(k.removeprefix(prefix))}
    renamed = require("timm.models.eva", PURPOSE).checkpoint_filter_fn(known, model)
    renamed |= {k.removeprefix(prefix): v for k, v in tensors.items() if k not in known}
    names = {id(value): key for key, value in tensors.items()}
    in_file = {key: names.get(id(value), prefix + key) for key, value in renamed.items()}
    alike = {BLOCK.sub("#", key): name for key, name in in_file.items()}

    def name_in_file(key: str) -> str:
        if key in in_file:
            return in_file[key]
        number = BLOCK.search(key)
        other = alike.get(BLOCK.sub("#", key), prefix + key)
        return BLOCK.sub(number[0], other) if number else other

    return renamed, name_in_file


def hidden_blocks(depth: int) -> list[int]:
    """Return the blocks whose outputs PuLID reads: 3, 7, 11, 15, 19 of 24."""
    return [depth * k // (SCALES + 1) - 1 for k in range(1, SCALES + 1)]


def encode_pixels(
    eva: EvaClip, pixels: torch.Tensor
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Run the tower on normalised pixels, all images as one batch.

    pixels [B, 3, S, S] float32 -> pooled [B, E] of unit length and five hidden states
    [B, 1+P, W] with the class token first, before the last norm; all float32 on the CPU.
    Raises ValueError for pixels of another shape.
    """
    pooled, hidden = run_tower(eva, pixels)
    return F.normalize(pooled, dim=-1), hidden


def run_tower(eva: EvaClip, pixels: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Do what ``encode_pixels`` does, without scaling the pooled output to unit length.

    Raises ValueError if ``pixels`` are not [B, 3, S, S].
    """
    size = eva.image_size
    if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
        raise ValueError(
            f"EVA-CLIP {eva.name} takes pixels [B, 3, {size}, {size}], not {list(pixels.shape)}."
        )
    # Attention and the MLP hold about ten times the tokens of a block.
    tokens = eva.patcher.model.pos_embed.numel()
    model = on_device(eva.patcher, memory=pixels.shape[0] * tokens * 4 * 10)
    last, states = model.forward_intermediates(
        pixels.to(device_of(model), model.head.weight.dtype),
        indices=hidden_blocks(len(model.blocks)),
        return_prefix_tokens=True,
        norm=False,
        output_fmt="NLC",
    )
    hidden = tuple(torch.cat((prefix, patches), dim=1).float().cpu() for patches, prefix in states)
    return model.head(last[:, 0]).float().cpu(), hidden
