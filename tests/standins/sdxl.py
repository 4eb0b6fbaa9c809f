"""Small SDXL models in memory, and stand-ins for PuLID's SDXL files."""

from __future__ import annotations

import json

import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import places
import torch
from comfy.model_patcher import ModelPatcher
from golden.weights import golden_input, golden_state_dict
from pulid_pack.identity.identity import SDXL_V1, Identity
from pulid_pack.pulid_sdxl.checkpoint import PulidSDXLModel, from_state_dict
from torch import Tensor

from standins.sdxl_files import mlp_shapes

GOLDEN = places.GOLDEN / "sdxl"
MANIFEST = json.loads((GOLDEN / "sdxl_manifest.json").read_text())
TIMESTEP = MANIFEST["unet_with_id"]["timestep"]
FIXED = {
    "image_size": 32,
    "num_heads": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "in_channels": 4,
    "out_channels": 4,
    "legacy": False,
    "use_temporal_attention": False,
}


def small_sdxl(dtype: torch.dtype = torch.float32, **changes) -> ModelPatcher:
    """Return the golden files' UNet (true depths, narrow) as ComfyUI holds an SDXL."""
    dims = {
        k: v for k, v in MANIFEST["unet_with_id"]["dims"].items() if k not in ("pooled", "head_dim")
    }
    config = comfy.supported_models.SDXL({**dims, **FIXED, **changes})
    config.set_inference_dtype(dtype, None)
    base = comfy.model_base.SDXL(config, device="cpu")
    weights = golden_state_dict(MANIFEST["unet_with_id"]["unet_shapes"])
    if not changes:
        base.diffusion_model.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    base.eval().requires_grad_(False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device)


def layer_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the golden UNet's 70 ID layers under the authors' keys."""
    shapes = MANIFEST["unet_with_id"]["layer_shapes"]
    return {key: tuple(shape) for key, shape in shapes.items()}


def small_pulid_sdxl(name: str = "golden") -> PulidSDXLModel:
    """Return a PuLID-SDXL v1 with the golden layers and a narrow encoder."""
    return from_state_dict(small_state_dict(), name)


def small_state_dict() -> dict[str, Tensor]:
    """Return the tensors of such a file under the authors' keys."""
    return golden_state_dict(layer_shapes() | mlp_shapes("id_adapter.", 64))


def people(name: str = "unet.id_tokens", tokens: int = 10, family: str = SDXL_V1) -> Identity:
    """Return the golden identity: row 0 of the input is the unconditional one."""
    rows = golden_input(name, (2, tokens, 64))
    return Identity(rows[1:], rows[:1], family)
