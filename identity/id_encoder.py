"""The ID encoder of a PuLID file, and how faces become ID tokens with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..state_dicts import check_shapes
from . import id_former, id_mlp
from .identity import FLUX, SDXL_V1, Identity
from .recent import Recent


@dataclass(frozen=True)
class IDEncoder:
    """An IDFormer or IDMLP, managed by the host."""

    file: str  # the file it comes from, for messages
    patcher: comfy.model_patcher.ModelPatcher  # holds the module
    family: str = FLUX  # of identity.FAMILIES
    # its output for zeros, by the number of vision tokens: it depends on nothing else, and costs
    # as much as a photo
    zero_tokens: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)
    # what it made of the last photos, so that a new weight never looks at a face again
    recent: Recent = field(default_factory=Recent, compare=False, repr=False)


def load_id_encoder(
    state_dict: dict[str, Tensor],
    prefix: str,
    file: str,
    what: str,
    advice: str,
    family: str = FLUX,
) -> IDEncoder:
    """Build the ID encoder from the tensors of ``file`` under ``prefix``.

    ``what`` names the file and ``advice`` says which one is wanted, for messages. Raises ValueError
    naming the key that is missing, unexpected or of another size, as it stands in the file.
    """
    kind, module = (id_mlp, id_mlp.IDMLP) if family == SDXL_V1 else (id_former, id_former.IDFormer)
    own = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    shapes = {k: v.shape for k, v in own.items()}
    try:
        sizes = kind.read_sizes(shapes)
    except KeyError as error:
        key = error.args[0]
        if key not in shapes:
            raise ValueError(f"{what} lacks the tensor {prefix}{key}. {advice}") from error
        raise ValueError(
            f"{what}: the ID encoder's tensor '{prefix}{key}' has shape {list(shapes[key])}, "
            f"{kind.NEEDS}. {advice}"
        ) from error
    # sizes to compare with come from torch's own layers: the host's may have no weight yet
    wanted = module(sizes, device="meta").state_dict()
    check_shapes(
        {prefix + k: v for k, v in shapes.items()},
        {prefix + k: v.shape for k, v in wanted.items()},
        what,
    )
    offload = comfy.model_management.unet_offload_device()
    dtype = own["mapping_0.0.weight"].dtype
    model = module(sizes, comfy.ops.manual_cast, device="meta", dtype=dtype)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=offload,
    )
    # a dynamic host reads weights from the mapped file when it needs them; elsewhere they are ours,
    # since a mapped file can be overwritten while it is in use
    model.load_state_dict(own if is_dynamic(patcher) else copied(own), assign=True)
    model.eval().requires_grad_(False)
    return IDEncoder(file, patcher, family)


def own_weights(layers: Sequence[nn.Module], encoder: IDEncoder) -> None:
    """Copy a file's layers, since a mapped file can be overwritten while it is in use.

    Under dynamic VRAM they stay mapped, as their ID encoder does.
    """
    if not is_dynamic(encoder.patcher):
        for parameter in nn.ModuleList(layers).parameters():
            parameter.data = parameter.data.clone()


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in tensors.items()}


def is_dynamic(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Return whether the host's dynamic VRAM holds this model."""
    return getattr(patcher, "is_dynamic", lambda: False)()  # the oldest hosts do not have it


def encode_tokens(encoder: IDEncoder, id_cond: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
    """Push faces through the ID encoder, each person's photos together.

    id_cond [B, M, 1280] of M photos each, five hidden states [B, M * S, 1024] -> [B, 32, C] in
    float32 on the CPU. Raises ValueError if the vision tower does not fit the encoder.
    """
    model = encoder.patcher.model
    found = (id_cond.shape[-1], hidden[0].shape[-1])
    if found != (model.sizes.id_cond, model.sizes.vit):
        raise ValueError(
            f"{encoder.file} takes face features of {model.sizes.id_cond} values and vision states "
            f"of {model.sizes.vit}, but these loaders give {found[0]} and {found[1]}. Load "
            "EVA02_CLIP_L_336_psz14_s6B.pt and an insightface pack with 512 values a face "
            "(antelopev2)."
        )
    comfy.model_management.load_models_gpu([encoder.patcher])
    device = encoder.patcher.load_device
    out = model(id_cond.to(device, torch.float32), [h.to(device, torch.float32) for h in hidden])
    return out.float().cpu()


def encode_joint(encoder: IDEncoder, id_cond: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
    """Encode M photos of one person together: id_cond [M, 1280], hidden [M, S, 1024] -> [1, 32, C].

    The encoder's architecture takes any number of face vectors and vision states on its token axis.
    """
    return encode_tokens(encoder, id_cond[None], tuple(h.flatten(0, 1)[None] for h in hidden))


def encode_each(encoder: IDEncoder, id_cond: Tensor, hidden: tuple[Tensor, ...]) -> Tensor:
    """Encode M photos one by one: id_cond [M, 1280], hidden [M, S, 1024] -> [M, 32, C]."""
    return encode_tokens(encoder, id_cond[:, None], hidden)


def encode_zeros(encoder: IDEncoder, hidden: tuple[Tensor, ...]) -> Tensor:
    """Return the unconditional ID tokens [1, 32, C]: zeros of one photo's shape, encoded."""
    count = hidden[0].shape[-2]
    if count not in encoder.zero_tokens:
        id_cond = torch.zeros(1, 1, encoder.patcher.model.sizes.id_cond)
        zeros = tuple(torch.zeros_like(h[:1]) for h in hidden)
        encoder.zero_tokens[count] = encode_tokens(encoder, id_cond, zeros)
    return encoder.zero_tokens[count]


def nobody(encoder: IDEncoder) -> Identity:
    """Return an empty identity (no ID tokens), which changes nothing."""
    none = torch.zeros(1, 0, encoder.patcher.model.sizes.output)
    return Identity(none, none, encoder.family)
