"""Stand-ins for SDXL and PuLID-SDXL files: random weights under the true keys.

The UNet has the original's depths, its 70 cross-attention layers and its key names; widths are
small, so ComfyUI knows it with the pack ``small_sdxl_pack`` only. The weights are arranged as in
the FLUX stand-in: sampling settles on a smooth pattern that depends on prompt and identity.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from places import GOLDEN
from safetensors.torch import save_file

from standins import eva
from standins.flux import Shapes, Weights, random_weights, save
from standins.models import HOST_DIR, WRITERS, link_or_copy, prepare_folder, prepare_models
from standins.pulid import encoder_shapes
from standins.vae import vae_weights

SHAPES = GOLDEN / "sdxl" / "sdxl_manifest.json"
BASE = "checkpoints/sd_xl_base_1.0.safetensors"
LIGHTNING = "diffusion_models/sdxl_lightning_4step_unet.safetensors"
V1 = "pulid/pulid_v1.bin"
V1_1 = "pulid/pulid_v1.1.safetensors"
CONVERTED = "pulid/ip-adapter_pulid_sdxl_fp16.safetensors"
WIDTH, CONTEXT = 64, 256  # of UNet and text, as small_sdxl_pack has them
LATENT_CHANNELS = 4
SDXL_SCALE = 0.13025
LOOK = ((6, -3, 2, 4), (-2, 5, 4, 3), (3, 2, -5, 6))  # of the latents, one row a colour
ADM = 2816  # pooled text and sizes
CARRIED = 2 * LATENT_CHANNELS  # channels that carry the latents past all blocks: each and its minus
KEEP = 1.3  # what the noise is taken away by
BASE_DRAWS, LIGHTNING_DRAWS = 0.18, 0.8  # how strongly, so that cfg 7 and 1.2 give a picture
HIDDEN = 64  # of the ID encoders


def prepare_sdxl_models(parent: Path = HOST_DIR) -> Path:
    """Return a models folder with the usual stand-ins and SDXL's, written once for a version."""

    def write(folder: Path) -> None:
        usual = prepare_models(parent)
        shutil.copytree(usual, folder, copy_function=link_or_copy, dirs_exist_ok=True)
        write_sdxl_models(folder)

    return prepare_folder("sdxl-models", (*WRITERS, "sdxl_files"), write, parent)


def write_sdxl_models(folder: Path) -> None:
    """Write SDXL's stand-ins below ``folder``."""
    for file in (BASE, LIGHTNING, V1, V1_1, CONVERTED):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / BASE)
    save(unet_weights(12, LIGHTNING_DRAWS), folder / LIGHTNING, torch.float16)
    first = pulid_weights("v1", seed=13)
    torch.save(first, folder / V1)
    save(pulid_weights("v1.1", seed=14), folder / V1_1, torch.float16)
    save(converted(first), folder / CONVERTED, torch.float16)


def write_checkpoint(path: Path, seed: int = 11) -> None:
    """Write an SDXL checkpoint without text encoders: UNet and VAE under a checkpoint's keys."""
    unet, vae = unet_weights(seed, BASE_DRAWS), vae_weights(LOOK, SDXL_SCALE, 0.0)
    weights = {f"model.diffusion_model.{key}": value.half() for key, value in unet.items()}
    weights |= {f"first_stage_model.{key}": value.half() for key, value in vae.items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, path)


def unet_shapes() -> Shapes:
    """Return the shapes of the golden UNet, for text of this stand-in's width and SDXL's sizes."""
    golden = json.loads(SHAPES.read_text("utf-8"))["unet_with_id"]["unet_shapes"]
    shapes = {key: tuple(shape) for key, shape in golden.items()}
    for key, shape in shapes.items():
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            shapes[key] = (shape[0], CONTEXT)
    shapes["label_emb.0.0.weight"] = (shapes["label_emb.0.0.weight"][0], ADM)
    return shapes


def unet_weights(seed: int, draws: float) -> Weights:
    """Return the UNet's weights, float32."""
    weights = random_weights(unet_shapes(), torch.Generator().manual_seed(seed))
    arrange_unet(weights, draws)
    return weights


def arrange_unet(weights: Weights, draws: float) -> None:
    """Turn random weights into a model whose samples are smooth patterns, in place.

    Its noise is the latent itself, carried past all blocks, less ``draws`` times a pattern that
    the blocks make at a quarter and a half of its resolution. SiLU(z) - SiLU(-z) is z: so the
    latents come out whole.
    """
    smooth = torch.tensor([1.0, 2.0, 1.0]) / 4
    smooth = torch.outer(smooth, smooth)
    for key, value in weights.items():
        if key.endswith(("attn1.to_out.0.weight", "ff.net.2.weight")):
            value *= 0.3
        elif key.endswith("attn2.to_q.weight"):
            value *= 3.0  # choosy, and by place: prompt and identity show as shapes
        elif key.endswith("attn2.to_out.0.weight"):
            value *= 2.0
        elif key.startswith("output_blocks") and key.endswith("conv.weight"):
            value.copy_(torch.eye(len(value))[..., None, None] * smooth)  # after a doubling
    inward = weights["input_blocks.0.0.weight"]
    inward[:CARRIED] = 0
    for i in range(LATENT_CHANNELS):
        inward[2 * i, i, 1, 1], inward[2 * i + 1, i, 1, 1] = 1.0, -1.0
    for block in (6, 7, 8):  # at the latents' resolution nothing is drawn any more
        weights[f"output_blocks.{block}.0.out_layers.3.weight"].zero_()
        skip = weights[f"output_blocks.{block}.0.skip_connection.weight"]
        drawn = skip.shape[1] - WIDTH  # from below; behind it comes what the down blocks kept
        skip[:, drawn:] = 0
        if block > 6:
            skip[:, :drawn] = torch.eye(WIDTH)[..., None, None]
        skip[:CARRIED] = 0
    skip[:CARRIED, WIDTH : WIDTH + CARRIED] = torch.eye(CARRIED)[..., None, None]
    out = weights["out.2.weight"]
    signs = torch.kron(torch.eye(LATENT_CHANNELS), torch.tensor([[1.0, -1.0]]))
    drawn = out[:, CARRIED:].mean(dim=(2, 3))
    drawn = -draws * drawn / drawn.norm(dim=1, keepdim=True)
    out.zero_()
    out[:, :CARRIED, 1, 1] = KEEP * signs
    out[:, CARRIED:] = drawn[..., None, None] * smooth


def pulid_weights(version: str, seed: int) -> Weights:
    """Return a PuLID-SDXL file of this version under the authors' keys, float16."""
    shapes: Shapes = {}
    vit, id_cond = eva.EVA_WIDTH, 512 + eva.EVA_POOLED
    if version == "v1":
        shapes |= mlp_shapes("id_adapter.", CONTEXT, id_cond, vit, HIDDEN)
    else:
        former = encoder_shapes(HIDDEN, CONTEXT, vit, id_cond)
        shapes |= {k.replace("pulid_encoder.", "id_adapter."): v for k, v in former.items()}
    widths = json.loads(SHAPES.read_text("utf-8"))["unet_with_id"]["layer_shapes"]
    shapes |= {key: (shape[0], CONTEXT) for key, shape in widths.items()}
    weights = random_weights(shapes, torch.Generator().manual_seed(seed))
    if version != "v1":
        weights["id_adapter.latents"] *= 5.0  # their fan-in is not their width
    for key, value in weights.items():
        if key.endswith("id_to_v.weight"):
            value *= 1.5
    return {key: value.half() for key, value in weights.items()}


def converted(weights: Weights) -> Weights:
    """Return a file's tensors under the names of its converted form."""
    names = {
        "id_adapter_attn_layers.": "ip_adapter.",
        "id_adapter.": "image_proj.",
        "id_to_k": "to_k_ip",
        "id_to_v": "to_v_ip",
    }
    found = {}
    for key, value in weights.items():
        for old, new in names.items():
            key = key.replace(old, new)
        found[key] = value
    return found


def mlp_shapes(
    prefix: str, output: int, id_cond: int = 576, vit: int = 128, hidden: int = HIDDEN
) -> Shapes:
    """Return the shapes of v1's ID encoder, narrow where not told otherwise."""
    parts = [("body", id_cond, 5 * output)]
    for i in range(5):
        parts += [(f"mapping_{i}", vit, output), (f"mapping_patch_{i}", vit, output)]
    shapes: Shapes = {}
    for name, inputs, outputs in parts:
        for at, width, rows in ((0, inputs, hidden), (3, hidden, hidden), (6, hidden, outputs)):
            shapes[f"{prefix}{name}.{at}.weight"] = (rows, width)
            shapes[f"{prefix}{name}.{at}.bias"] = (rows,)
        for at in (1, 4):
            shapes[f"{prefix}{name}.{at}.weight"] = (hidden,)
            shapes[f"{prefix}{name}.{at}.bias"] = (hidden,)
    return shapes
