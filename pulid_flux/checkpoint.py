"""Read a PuLID-FLUX file; every size comes from its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..identity.id_encoder import IDEncoder, load_id_encoder, own_weights
from ..state_dicts import check_floats, check_shapes, read_metadata, read_state_dict
from .cross_attention import HEAD_DIM, CrossAttention

if TYPE_CHECKING:
    from ..identity.prepared import Prepared

PREFIX = "pulid_ca."
RELEASED_LAYERS = 20  # of the authors' files: 10 for double, 10 for single blocks
WHAT = "PuLID-FLUX model"
EXPECTED = (
    "pulid_flux_v0.9.1.safetensors (about 1.1 GB, from https://huggingface.co/guozinan/PuLID, in "
    "models/pulid)"
)
ADVICE = f"Expected {EXPECTED}."
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
    # how many of the layers were trained for double blocks; None: as many as a model has
    double_layers: int | None = None
    # the last ID tokens folded into the layers (see prepared.py); they go with the file
    folds: list[Prepared] = field(default_factory=list, compare=False, repr=False)

    @property
    def width(self) -> int:
        """Width of the FLUX model this was trained for."""
        return self.layers[0].to_q.in_features

    @property
    def token_width(self) -> int:
        """Width C of the ID tokens."""
        return self.layers[0].to_kv.in_features


def load_pulid(path: Path) -> PulidModel:
    """Read the PuLID-FLUX file ``path``.

    Raises FileNotFoundError, or ValueError naming the file and what in it is wrong.
    """
    state_dict = read_state_dict(path, EXPECTED)
    return from_state_dict(state_dict, path.name, read_metadata(path))


def from_state_dict(
    state_dict: dict[str, Tensor], name: str, metadata: Mapping[str, str] | None = None
) -> PulidModel:
    """Build the model from ``pulid_encoder.*`` and ``pulid_ca.*`` tensors; ``name`` for messages.

    ``metadata`` may say in ``double_layers`` how many layers were trained for double blocks; in
    the authors' files of 20 it is 10. Raises ValueError naming the key that is missing, unexpected
    or of another size.
    """
    what = f"{WHAT} {name}"
    check_kind(state_dict, what)
    check_floats(state_dict, what, ADVICE)
    id_encoder = load_id_encoder(state_dict, "pulid_encoder.", name, what, ADVICE)
    layers = build_layers(state_dict, what)
    own_weights(layers, id_encoder)
    return PulidModel(name, id_encoder, layers, read_double_layers(metadata or {}, layers, what))


def read_double_layers(
    metadata: Mapping[str, str], layers: Sequence[CrossAttention], what: str
) -> int | None:
    """Return how many of the layers were trained for double blocks, None if unknown.

    Raises ValueError if the metadata states an impossible number.
    """
    stated = metadata.get("double_layers", "10" if len(layers) == RELEASED_LAYERS else None)
    if stated is None:
        return None
    if not stated.isdecimal() or int(stated) > len(layers):
        raise ValueError(
            f"{what}: its metadata says double_layers = {stated}, expected a number of at most "
            f"{len(layers)}, its layers. Download the file again or correct its metadata."
        )
    return int(stated)


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
    """Return the cross-attention layers under ``pulid_ca.``, all of one size, as they are stored.

    Raises ValueError naming the key that is missing, unexpected or of another size.
    """
    own = {k: v for k, v in state_dict.items() if k.startswith(PREFIX)}
    numbers = [int(n) for k in own if (n := k.split(".")[1]).isdigit()]
    q, kv = f"{PREFIX}0.to_q.weight", f"{PREFIX}0.to_kv.weight"
    for key in (q, kv):
        if key not in own:
            raise ValueError(f"{what} lacks the tensor {key}. {ADVICE}")
    inner, dim = two_axes(own[q], q, what)
    width = two_axes(own[kv], kv, what)[1]
    if inner == 0 or inner % HEAD_DIM:
        raise ValueError(f"{what}: '{q}' has {inner} rows, expected a multiple of {HEAD_DIM}.")
    layers = tuple(
        CrossAttention(dim, width, inner // HEAD_DIM, device="meta")
        for _ in range(max(numbers) + 1)
    )
    module = nn.ModuleList(layers)
    expected = {f"{PREFIX}{k}": v.shape for k, v in module.state_dict().items()}
    check_shapes({k: v.shape for k, v in own.items()}, expected, what)
    module.load_state_dict({k[len(PREFIX) :]: v for k, v in own.items()}, assign=True)
    module.eval().requires_grad_(False)
    return layers


def two_axes(tensor: Tensor, key: str, what: str) -> tuple[int, int]:
    """Return the shape of a matrix; raise ValueError if ``tensor`` is not one."""
    if tensor.ndim != 2:
        raise ValueError(f"{what}: tensor '{key}' has shape {list(tensor.shape)}, not a matrix.")
    return tensor.shape[0], tensor.shape[1]
