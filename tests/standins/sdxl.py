"""Small SDXL models in memory, and stand-ins for PuLID's SDXL files."""

from __future__ import annotations

import json
from collections.abc import Mapping

import comfy.cldm.cldm
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import places
import torch
from comfy.controlnet import ControlNet
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from golden.weights import golden_input, golden_state_dict
from pulid_pack.identity.identity import SDXL_V1, Identity
from pulid_pack.pulid_sdxl.checkpoint import PulidSDXLModel, from_state_dict
from torch import Tensor

from standins.sdxl_files import mlp_shapes
from standins.shapes import shapes_of

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


def empty_sdxl(dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """Return a UNet of true depths, but narrow, as ComfyUI holds an SDXL, with random weights."""
    dims = {
        k: v for k, v in MANIFEST["unet_with_id"]["dims"].items() if k not in ("pooled", "head_dim")
    }
    config = comfy.supported_models.SDXL({**dims, **FIXED})
    config.set_inference_dtype(dtype, None)
    base = comfy.model_base.SDXL(config, device="cpu").eval().requires_grad_(False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device)


def small_sdxl(
    dtype: torch.dtype = torch.float32, weights: Mapping[str, Tensor] | None = None
) -> ModelPatcher:
    """Return that model with the weights of the golden files' UNet.

    weights: the same, where they have been made before; they are copied.
    """
    weights = weights or golden_state_dict(MANIFEST["unet_with_id"]["unet_shapes"])
    model = empty_sdxl(dtype)
    model.model.diffusion_model.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    return model


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


TINY = {
    "model_channels": 64,
    "context_dim": 64,
    "channel_mult": [1, 1, 1],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "adm_in_channels": 1568,
}
TINY_LAYERS = 1 + 2 + 6 + 1  # input, output, middle


def tiny_sdxl(dtype: torch.dtype = torch.float32, seed: int = 1, **changes) -> ModelPatcher:
    """Return a UNet of ten cross-attention layers, all 64 wide, as ComfyUI holds an SDXL."""
    config = comfy.supported_models.SDXL({**TINY, **FIXED, **changes})
    config.set_inference_dtype(dtype, None)
    base = comfy.model_base.SDXL(config, device="cpu")
    weights = golden_state_dict(shapes_of(UNetModel, **config.unet_config), str(seed))
    base.diffusion_model.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    base.eval().requires_grad_(False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device)


def tiny_controlnet() -> ControlNet:
    """Return a ControlNet for the tiny UNet."""
    config = {**TINY, **FIXED, "num_head_channels": 64, "hint_channels": 3}
    net = comfy.cldm.cldm.ControlNet(**config)
    net.load_state_dict(
        golden_state_dict(shapes_of(comfy.cldm.cldm.ControlNet, **config), "control")
    )
    device = torch.device("cpu")
    return ControlNet(net.eval().requires_grad_(False), load_device=device)


def tiny_pulid(seed: int = 1, layers: int = TINY_LAYERS) -> PulidSDXLModel:
    """Return a PuLID-SDXL v1 for the tiny UNet."""
    shapes = mlp_shapes("id_adapter.", 64)
    for n in range(1, 2 * layers, 2):
        shapes |= {f"id_adapter_attn_layers.{n}.id_to_{x}.weight": (64, 64) for x in "kv"}
    return from_state_dict(golden_state_dict(shapes, str(seed)), f"tiny {seed}")


def someone(seed: int, tokens: int = 10, family: str = SDXL_V1) -> Identity:
    """Return a random identity; the unconditional one is the same for everybody."""
    own = golden_input(f"person {seed}", (1, tokens, 64))
    return Identity(own, golden_input("nobody", (1, tokens, 64)), family)


def text(seed: int, **more) -> list:
    """Return a conditioning of 8 text tokens."""
    pooled = golden_input(f"pooled {seed}", (1, 32))
    return [[golden_input(f"text {seed}", (1, 8, 64)), {"pooled_output": pooled, **more}]]


def sample(
    model: ModelPatcher,
    *,
    steps: int = 2,
    cfg: float = 1.0,
    batch: int = 1,
    size: tuple[int, int] = (16, 24),
    positive: list | None = None,
    negative: list | None = None,
    callback=None,
) -> Tensor:
    """Sample [batch, 4, h, w] from fixed noise through the host's sampler."""
    noise = golden_input("noise", (batch, 4, *size))
    conds = positive or text(1), negative or text(2)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        "euler",
        "karras",
        *conds,
        torch.zeros_like(noise),
        callback=callback,
        disable_pbar=True,
        seed=1,
    )
