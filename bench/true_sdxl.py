"""SDXL and its PuLID at their true size, for the virtual card; see true_size.py.

Use everything here inside ``Card.running``.
"""

from __future__ import annotations

import comfy.model_base
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from pulid_pack.identity.identity import SDXL_V1, SDXL_V1_1, Identity
from pulid_pack.nodes.sdxl import PuLIDSDXLApplyIdentity
from pulid_pack.pulid_sdxl.checkpoint import PulidSDXLModel, from_state_dict
from pulid_pack.pulid_sdxl.id_attention import IDAttention
from pulid_pack.pulid_sdxl.unet import attention_layers
from standins.flux import Shapes
from standins.pulid import encoder_shapes
from standins.sdxl import FIXED, mlp_shapes
from torch import Tensor

from .true_size import EVA, Picture, empty

UNET = {
    "model_channels": 320,
    "context_dim": 2048,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "adm_in_channels": 2816,
}
TOKEN_WIDTH = 2048
# The authors' settings: ID tokens, zero tokens and projection.
SETTINGS = {SDXL_V1: (10, 8, "ortho_v2"), SDXL_V1_1: (32, 20, "ortho_v2")}
SQUARE = Picture(channels=4)
GUIDED = Picture(rows=(1, 0), channels=4)


def unet_shapes() -> Shapes:
    """Return the shape of every tensor of SDXL's UNet; call it before dynamic VRAM is there.

    Under dynamic VRAM the host's layers have no weights until some are loaded.
    """
    config = comfy.supported_models.SDXL({**UNET, **FIXED})
    config.set_inference_dtype(torch.float16, None)
    base = comfy.model_base.SDXL(config, device="meta")
    return {key: tuple(value.shape) for key, value in base.diffusion_model.state_dict().items()}


def true_sdxl(shapes: Shapes, dtype: torch.dtype = torch.float16) -> ModelPatcher:
    """Return an SDXL as ComfyUI loads it from weights in ``dtype``."""
    return comfy.sd.load_diffusion_model_state_dict(empty(shapes, dtype))


def layer_widths() -> list[int]:
    """Return the widths of SDXL's 70 cross-attention layers in the order of the files."""
    return [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10


def pulid_shapes(family: str) -> Shapes:
    """Return key and shape of every tensor of pulid_v1.bin or pulid_v1.1.safetensors."""
    if family == SDXL_V1:
        shapes = mlp_shapes("id_adapter.", TOKEN_WIDTH, 512 + EVA["pooled"], EVA["width"], 1024)
    else:
        encoder = encoder_shapes(1024, TOKEN_WIDTH, EVA["width"], 512 + EVA["pooled"])
        shapes = {k.replace("pulid_encoder.", "id_adapter."): v for k, v in encoder.items()}
    for layer, width in enumerate(layer_widths()):
        name = f"id_adapter_attn_layers.{2 * layer + 1}.id_to_"
        shapes |= {f"{name}{part}.weight": (width, TOKEN_WIDTH) for part in "kv"}
    return shapes


def true_pulid_sdxl(family: str) -> PulidSDXLModel:
    """Return a PuLID-SDXL model of the released file's size in float16."""
    return from_state_dict(empty(pulid_shapes(family), torch.float16), family)


def with_identity(
    model: ModelPatcher, pulid: PulidSDXLModel, people: int = 1, mask: float | None = None, **more
) -> ModelPatcher:
    """Return ``model`` with that many identities, through the node, as true_size's."""
    count, zeros, projection = SETTINGS[pulid.family]
    for _ in range(people):
        tokens = (torch.empty(1, count, TOKEN_WIDTH) for _ in range(2))
        identity = Identity(*tokens, pulid.family)
        values = {"method": "custom", "weight": 0.8, "start_at": 0.0, "end_at": 1.0}
        values |= {"num_zero": zeros, "projection": projection, **more}
        if mask is not None:
            values["attn_mask"] = torch.tensor([[[mask]]])
        model = PuLIDSDXLApplyIdentity.execute(model, pulid, identity, **values).args[0]
    return model


def with_authors(
    model: ModelPatcher, pulid: PulidSDXLModel, picture: Picture, people: int = 1
) -> ModelPatcher:
    """Return a copy of ``model`` with the authors' processors; their layers are on the card."""
    patched = model.clone()
    where = {"device": model.load_device, "dtype": model.model.get_dtype_inference()}
    count, zeros, projection = SETTINGS[pulid.family]
    tokens = torch.empty(len(picture.rows), count, TOKEN_WIDTH, **where)
    for layer in attention_layers(model.model.diffusion_model):
        own = IDAttention(layer.width, TOKEN_WIDTH, **where)

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict, own: IDAttention = own) -> Tensor:
            heads = extra["n_heads"]
            out = optimized_attention(q, k, v, heads, attn_precision=extra["attn_precision"])
            for _ in range(people):
                out = own(q, out, tokens, heads, zeros, projection, 0.8)
            return out

        block, number, index = layer.key
        patched.set_model_attn2_replace(attend, block, number, index)
    return patched
