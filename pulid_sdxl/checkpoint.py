"""Read a PuLID-SDXL file (v1 or v1.1); every size comes from its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..identity.id_encoder import IDEncoder, load_id_encoder, own_weights
from ..identity.identity import FAMILIES, SDXL_V1, SDXL_V1_1
from ..identity.prepared import Prepared
from ..state_dicts import check_floats, check_shapes, read_state_dict
from .id_attention import IDAttention

WHAT = "PuLID-SDXL model"
EXPECTED = (
    "pulid_v1.1.safetensors (984 MB, from https://huggingface.co/guozinan/PuLID, in models/pulid), "
    "pulid_v1.bin from there, or ip-adapter_pulid_sdxl_fp16.safetensors"
)
ADVICE = f"Expected {EXPECTED}."
# The authors' names, and those of the converted files: encoder, layers, keys, values.
LAYOUTS = (
    ("id_adapter.", "id_adapter_attn_layers.", "id_to_k", "id_to_v"),
    ("image_proj.", "ip_adapter.", "to_k_ip", "to_v_ip"),
)
# The encoders' own tensors tell the versions apart, and PuLID from other adapters of the layout.
MARKS = {
    SDXL_V1: ("body.0.weight", "mapping_patch_0.0.weight"),
    SDXL_V1_1: ("latents", "id_embedding_mapping.0.weight"),
}
# Files people take for this one: a key that gives each away, and its name.
OTHER_MODELS = (
    ("pulid_encoder.", "PuLID-FLUX (use Load PuLID Model)"),
    ("pulid_ca.", "PuLID-FLUX (use Load PuLID Model)"),
    ("ip_adapter.", "an IP-Adapter or InstantID for SDXL"),
    ("image_proj.", "an IP-Adapter or InstantID for SDXL"),
    ("model.diffusion_model.", "a diffusion checkpoint"),
    ("input_blocks.", "a diffusion model"),
    ("down_blocks.", "a diffusion model in diffusers' layout"),
    ("double_blocks.", "a FLUX diffusion model"),
    ("visual.", "EVA-CLIP"),
    ("lora_", "a LoRA"),
)


@dataclass(frozen=True)
class PulidSDXLModel:
    """A PuLID-SDXL file: what makes tokens, and the layers that show them to the UNet."""

    name: str
    id_encoder: IDEncoder
    layers: tuple[IDAttention, ...] = field(repr=False)  # error reports print a node's inputs
    # keys and values of the last ID tokens (see identity/prepared.py); they go with the file
    keys_values: list[Prepared] = field(default_factory=list, compare=False, repr=False)

    @property
    def family(self) -> str:
        """sdxl-v1 or sdxl-v1.1."""
        return self.id_encoder.family

    @property
    def token_width(self) -> int:
        """Width of the ID tokens."""
        return self.layers[0].id_to_k.in_features


def load_pulid_sdxl(path: Path) -> PulidSDXLModel:
    """Read the PuLID-SDXL file ``path``: the authors' or a converted one, flat or nested.

    Raises FileNotFoundError, or ValueError naming the file and what in it is wrong.
    """
    return from_state_dict(read_state_dict(path, EXPECTED), path.name)


def from_state_dict(state_dict: dict[str, Tensor], name: str) -> PulidSDXLModel:
    """Build the model from the tensors of a file called ``name``.

    Raises ValueError naming the key that is missing, unexpected or of another size.
    """
    what = f"{WHAT} {name}"
    layout, family = recognise(state_dict, what)
    check_floats(state_dict, what, ADVICE)
    encoder, prefix = layout[:2]
    id_encoder = load_id_encoder(state_dict, encoder, name, what, ADVICE, family)
    layers = build_layers(state_dict, layout, what)
    width = id_encoder.patcher.model.sizes.output
    if width != layers[0].id_to_k.in_features:
        raise ValueError(
            f"{what}: its ID encoder makes tokens of {width} values, but its layers ('{prefix}*') "
            f"take {layers[0].id_to_k.in_features}. {ADVICE}"
        )
    own_weights(layers, id_encoder)
    return PulidSDXLModel(name, id_encoder, layers)


def recognise(state_dict: Mapping[str, Tensor], what: str) -> tuple[tuple[str, ...], str]:
    """Return the layout and the family of a file; raise ValueError naming another kind of file."""
    for layout in LAYOUTS:
        for family, marks in MARKS.items():
            if all(layout[0] + mark in state_dict for mark in marks):
                if any(key.startswith(layout[1]) for key in state_dict):
                    return layout, family
                raise ValueError(
                    f"{what}: this is the ID encoder of {FAMILIES[family]} alone; its layers "
                    f"('{layout[1]}*') are missing. {ADVICE}"
                )
    for start, kind in OTHER_MODELS:
        if any(key.startswith(start) for key in state_dict):
            raise ValueError(f"{what}: this file is {kind}, not PuLID-SDXL. {ADVICE}")
    some = ", ".join(sorted(state_dict)[:3]) or "nothing"
    raise ValueError(
        f"{what}: expected tensors 'id_adapter.*' and 'id_adapter_attn_layers.*', found {some}. "
        f"{ADVICE}"
    )


def build_layers(
    state_dict: Mapping[str, Tensor], layout: tuple[str, ...], what: str
) -> tuple[IDAttention, ...]:
    """Return the layers under the layout's prefix, in the order of their odd numbers.

    Raises ValueError naming the key that is missing, unexpected or of another size.
    """
    encoder, prefix, key_name, value_name = layout
    own = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    numbers = [int(n) for k in own if (n := k[len(prefix) :].split(".")[0]).isdigit()]
    count = (max(numbers, default=0) + 1) // 2

    def name(layer: int, part: str) -> str:
        return f"{prefix}{2 * layer + 1}.{part}.weight"

    expected: dict[str, tuple[int, int]] = {}
    layers: list[IDAttention] = []
    for layer in range(max(count, 1)):
        for part in (key_name, value_name):
            tensor = own.get(name(layer, part))
            if tensor is None:
                raise ValueError(f"{what} lacks the tensor {name(layer, part)}. {ADVICE}")
            if tensor.ndim != 2:
                shape = list(tensor.shape)
                raise ValueError(
                    f"{what}: tensor '{name(layer, part)}' has shape {shape}, not a matrix."
                )
        shape = (own[name(layer, key_name)].shape[0], own[name(0, key_name)].shape[1])
        expected |= {name(layer, part): shape for part in (key_name, value_name)}
        layers.append(IDAttention(*shape, device="meta"))
    found = {k: tuple(v.shape) for k, v in state_dict.items() if not k.startswith(encoder)}
    check_shapes(found, expected, what)
    for number, layer in enumerate(layers):
        weights = {"id_to_k.weight": key_name, "id_to_v.weight": value_name}
        tensors = {own_name: own[name(number, part)] for own_name, part in weights.items()}
        layer.load_state_dict(tensors, assign=True)
        layer.eval().requires_grad_(False)
    return tuple(layers)
