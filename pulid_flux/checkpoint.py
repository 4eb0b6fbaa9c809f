"""Read a PuLID-FLUX file; every size comes from its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..identity.id_encoder import IDEncoder, load_id_encoder
from ..state_dicts import check_shapes, read_state_dict
from .cross_attention import HEAD_DIM, CrossAttention

WHAT = "PuLID-FLUX model"
EXPECTED = (
    "pulid_flux_v0.9.1.safetensors (about 1.1 GB, from https://huggingface.co/guozinan/PuLID, in "
    "models/pulid)"
)
ADVICE = f"Expected {EXPECTED}."
LAYER_KEYS = {
    "norm1.weight": "norm1_weight",
    "norm1.bias": "norm1_bias",
    "norm2.weight": "norm2_weight",
    "norm2.bias": "norm2_bias",
    "to_q.weight": "to_q",
    "to_kv.weight": "to_kv",
    "to_out.weight": "to_out",
}
# Files people take for this one: a key that gives each away, and its name.
OTHER_MODELS = (
    ("id_adapter_attn_layers.", "PuLID for SDXL"),
    ("id_adapter.", "PuLID for SDXL"),
    ("ip_adapter.", "PuLID or IP-Adapter for SDXL"),
    ("image_proj.", "PuLID or IP-Adapter for SDXL"),
    ("double_blocks.", "a FLUX diffusion model"),
    ("model.diffusion_model.", "a diffusion checkpoint"),
    ("transformer_blocks.", "a diffusion model in diffusers' layout"),
    ("visual.", "EVA-CLIP"),
    ("lora_", "a LoRA"),
)


@dataclass(frozen=True)
class PulidModel:
    """A PuLID-FLUX file: what makes tokens, and the layers that show them to FLUX."""

    name: str
    id_encoder: IDEncoder
    layers: tuple[CrossAttention, ...] = field(repr=False)  # error reports print a node's inputs

    @property
    def dim(self) -> int:
        """Width of the FLUX model this was trained for."""
        return self.layers[0].to_q.shape[1]

    @property
    def token_width(self) -> int:
        """Width C of the ID tokens."""
        return self.layers[0].norm1_weight.shape[0]


def load_pulid(path: Path) -> PulidModel:
    """Read the PuLID-FLUX file ``path``.

    Raises FileNotFoundError, or ValueError naming the file and what in it is wrong.
    """
    state_dict = read_state_dict(path, EXPECTED)
    return from_state_dict(state_dict, path.name)


def from_state_dict(state_dict: dict[str, Tensor], name: str) -> PulidModel:
    """Build the model from ``pulid_encoder.*`` and ``pulid_ca.*`` tensors; ``name`` for messages.

    Raises ValueError naming the key that is missing, unexpected or of another size.
    """
    what = f"{WHAT} {name}"
    check_kind(state_dict, what)
    bad = next((k for k, v in state_dict.items() if not v.is_floating_point()), None)
    if bad:
        raise ValueError(
            f"{what}: tensor '{bad}' is {state_dict[bad].dtype}, not a float. {ADVICE}"
        )
    id_encoder = load_id_encoder(state_dict, "pulid_encoder.", name, what, ADVICE)
    layers = {k[9:]: v for k, v in state_dict.items() if k.startswith("pulid_ca.")}
    return PulidModel(name, id_encoder, build_layers(layers, what))


def check_kind(state_dict: dict[str, Tensor], what: str) -> None:
    """Raise ValueError if this is another kind of file, naming the kind."""
    found = {k.split(".")[0] for k in state_dict}
    if {"pulid_encoder", "pulid_ca"} <= found:
        return
    for start, kind in OTHER_MODELS:
        if any(k.startswith(start) for k in state_dict):
            raise ValueError(f"{what}: this file is {kind}, not PuLID-FLUX. {ADVICE}")
    some = ", ".join(sorted(state_dict)[:3]) or "nothing"
    raise ValueError(
        f"{what}: expected tensors 'pulid_encoder.*' and 'pulid_ca.*', found {some}. {ADVICE}"
    )


def build_layers(state_dict: dict[str, Tensor], what: str) -> tuple[CrossAttention, ...]:
    """Return the cross-attention layers, all of one size."""
    indices = {k.split(".")[0] for k in state_dict}
    total = max((int(i) for i in indices if i.isdigit()), default=-1) + 1
    first = {k: state_dict.get(f"0.{k}") for k in LAYER_KEYS}
    for key in (k for k, v in first.items() if v is None):
        raise ValueError(f"{what} lacks pulid_ca.0.{key}. {ADVICE}")
    inner, dim = two_axes(first["to_q.weight"], "pulid_ca.0.to_q.weight", what)
    width = first["norm1.weight"].shape[0]
    if inner % HEAD_DIM:
        raise ValueError(
            f"{what}: 'pulid_ca.0.to_q.weight' has {inner} rows, expected a multiple of {HEAD_DIM}."
        )
    sizes = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "norm2.weight": (dim,),
        "norm2.bias": (dim,),
        "to_q.weight": (inner, dim),
        "to_kv.weight": (2 * inner, width),
        "to_out.weight": (dim, inner),
    }
    expected = {
        f"pulid_ca.{i}.{key}": torch.Size(size) for i in range(total) for key, size in sizes.items()
    }
    check_shapes({f"pulid_ca.{k}": v.shape for k, v in state_dict.items()}, expected, what)
    return tuple(
        CrossAttention(**{field: state_dict[f"{i}.{key}"] for key, field in LAYER_KEYS.items()})
        for i in range(total)
    )


def two_axes(tensor: Tensor, key: str, what: str) -> tuple[int, int]:
    """Return a matrix's shape; raise ValueError if it is none."""
    if tensor.ndim != 2:
        raise ValueError(f"{what}: tensor '{key}' has shape {list(tensor.shape)}, not a matrix.")
    return tensor.shape[0], tensor.shape[1]
