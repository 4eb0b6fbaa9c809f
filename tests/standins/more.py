"""Stand-ins for the models that the further workflows name: other FLUX models, LoRA, ControlNet."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from standins import eva
from standins.flux import (
    LATENT_CHANNELS,
    Shapes,
    flux_shapes,
    random_weights,
    save,
    write_chroma,
    write_flux,
)
from standins.models import HOST_DIR, WRITERS, link_or_copy, prepare_folder
from standins.pulid import write_pulid
from standins.sdxl_files import CONTEXT, prepare_sdxl_models

FILL = "diffusion_models/flux1-fill-dev.safetensors"
KONTEXT = "diffusion_models/flux1-dev-kontext_fp8_scaled.safetensors"
CHROMA = "diffusion_models/Chroma1-HD-fp8mixed.safetensors"
# Chroma has one width only; a PuLID file as wide as that stands beside the small one.
CHROMA_PULID = "pulid/pulid_flux_for_chroma.safetensors"
LORA = "loras/anime_lora_comfy_converted.safetensors"
CONTROLNET = "controlnet/flux-canny-controlnet-v3.safetensors"
IDENTITY = "pulid_identities/person.safetensors"
SDXL_IDENTITY = "pulid_identities/person_sdxl.safetensors"
HIDDEN, TOKENS, TOKEN_WIDTH = 128, 32, 96


def prepare_more_models(parent: Path = HOST_DIR) -> Path:
    """Return a models folder with the usual stand-ins and these, written once for a version."""

    def write(folder: Path) -> None:
        usual = prepare_sdxl_models(parent)
        shutil.copytree(usual, folder, copy_function=link_or_copy, dirs_exist_ok=True)
        write_more_models(folder)

    return prepare_folder("workflow-models", (*WRITERS, "sdxl_files", "more"), write, parent)


def write_more_models(folder: Path) -> None:
    """Write these stand-ins below ``folder``."""
    for file in (FILL, CHROMA, CHROMA_PULID, LORA, CONTROLNET, IDENTITY):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    write_flux(folder / FILL, in_channels=384, seed=5)
    write_flux(folder / KONTEXT, seed=6)
    write_chroma(folder / CHROMA)
    widths = {"vit_width": eva.EVA_WIDTH, "id_cond_width": 512 + eva.EVA_POOLED}
    write_pulid(folder / CHROMA_PULID, 3072, **widths)
    write_lora(folder / LORA)
    write_controlnet(folder / CONTROLNET)
    write_identities(folder)


def write_lora(path: Path, rank: int = 4) -> None:
    """Write a LoRA for the attention of the first double blocks."""
    generator = torch.Generator().manual_seed(8)
    weights = {}
    for i in range(4):
        key = f"lora_unet_double_blocks_{i}_img_attn_proj"
        weights[f"{key}.lora_down.weight"] = 0.3 * torch.randn(rank, HIDDEN, generator=generator)
        weights[f"{key}.lora_up.weight"] = 0.3 * torch.randn(HIDDEN, rank, generator=generator)
        weights[f"{key}.alpha"] = torch.tensor(float(rank))
    save_file(weights, path)


def write_controlnet(path: Path, depth: int = 2) -> None:
    """Write a ControlNet in the layout of XLabs's: ``depth`` double blocks, and a hint encoder."""
    shapes: Shapes = {
        key: shape
        for key, shape in flux_shapes(HIDDEN, True, 4 * LATENT_CHANNELS, depth, 0).items()
        if not key.startswith("final_layer")
    }
    for i in range(depth):
        shapes[f"controlnet_blocks.{i}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"controlnet_blocks.{i}.bias"] = (HIDDEN,)
    shapes["pos_embed_input.weight"] = (HIDDEN, 4 * LATENT_CHANNELS)
    shapes["pos_embed_input.bias"] = (HIDDEN,)
    for i in range(0, 16, 2):
        shapes[f"input_hint_block.{i}.weight"] = (16, 16 if i else 3, 3, 3)
        shapes[f"input_hint_block.{i}.bias"] = (16,)
    weights = random_weights(shapes, torch.Generator().manual_seed(9))
    for i in range(depth):
        weights[f"controlnet_blocks.{i}.weight"] *= 0.05  # a hint, not all there is to see
    save(weights, path, torch.bfloat16)


def write_identities(folder: Path) -> None:
    """Write identities of FLUX and of SDXL v1.1 as Save PuLID Identity does."""
    from pulid_pack.identity.files import save_identity
    from pulid_pack.identity.identity import FLUX, SDXL_V1_1, Identity

    generator = torch.Generator().manual_seed(10)
    for file, family, width in ((IDENTITY, FLUX, TOKEN_WIDTH), (SDXL_IDENTITY, SDXL_V1_1, CONTEXT)):
        tokens = torch.randn(2, 1, TOKENS, width, generator=generator)
        save_identity(Identity(tokens[0], 0.1 * tokens[1], family), folder / file)
