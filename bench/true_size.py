"""Models of the true size made from shapes alone, and one forward of them, for the virtual card.

Use everything here inside ``Card.running``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from comfy.samplers import CFGGuider
from pulid_pack.identity.identity import Identity
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.blocks import block_layers
from pulid_pack.pulid_flux.checkpoint import PulidModel, from_state_dict
from pulid_pack.pulid_flux.cross_attention import CrossAttention
from standins.flux import TEXT_POOLED, TEXT_WIDTH, Shapes, chroma_shapes, flux_shapes
from standins.pulid import cross_attention_shapes, encoder_shapes
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

WIDTH, HEADS, TOKEN_WIDTH, LAYERS, ID_TOKENS = 3072, 16, 2048, 20, 32
EVA = {"width": 1024, "depth": 24, "image_size": 336, "pooled": 768}
TEXT_TOKENS = 512
SDXL_TEXT_TOKENS, SDXL_TEXT_WIDTH, SDXL_SIZES = 77, 2048, 2816
SIGMAS = (1.0, 0.7, 0.0)
ADDED = 0.9  # the weight
DEPTHS = (19, 38)  # double and single blocks
SHAPES: dict[str, Callable[..., Shapes]] = {
    "FLUX.1-dev": lambda *depths: flux_shapes(WIDTH, True, 64, *depths),
    "FLUX.1-schnell": lambda *depths: flux_shapes(WIDTH, False, 64, *depths),
    "Chroma": chroma_shapes,
}


def empty(shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors of these shapes as a state dict, on the CPU."""
    return {key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}


def true_model(
    name: str = "FLUX.1-dev",
    dtype: torch.dtype = torch.bfloat16,
    depths: tuple[int, int] = DEPTHS,
    disable_dynamic: bool = False,
    **options: Any,
) -> ModelPatcher:
    """Return a diffusion model as ComfyUI loads it from weights in ``dtype``.

    ``disable_dynamic`` keeps it out of dynamic VRAM; ``options`` are the model options of the
    loader (dtype, load_device).
    """
    weights = empty(SHAPES[name](*depths), dtype)
    load = comfy.sd.load_diffusion_model_state_dict
    return load(weights, model_options=options, disable_dynamic=disable_dynamic)


def pulid_shapes(layers: int = LAYERS) -> Shapes:
    """Return key and shape of every tensor of pulid_flux_v0.9.1 with ``layers`` layers."""
    encoder = encoder_shapes(1024, TOKEN_WIDTH, EVA["width"], 512 + EVA["pooled"])
    return encoder | cross_attention_shapes(WIDTH, TOKEN_WIDTH, layers, HEADS)


def true_pulid() -> PulidModel:
    """Return the PuLID model of pulid_flux_v0.9.1's size in bfloat16."""
    return from_state_dict(empty(pulid_shapes(), torch.bfloat16), "true size")


def with_identity(
    model: ModelPatcher, pulid: PulidModel, people: int = 1, mask: float | None = None, **more: Any
) -> ModelPatcher:
    """Return ``model`` with that many identities, through the node; ``more`` are its inputs.

    mask: the value of a mask of one pixel, which fake tensors remember.
    """
    for _ in range(people):
        identity = Identity(*(torch.empty(1, ID_TOKENS, TOKEN_WIDTH) for _ in range(2)))
        values = {"weight": 1.0, "start_at": 0.0, "end_at": 1.0, **more}
        if mask is not None:
            values["attn_mask"] = torch.tensor([[[mask]]])
        model = PuLIDFluxApplyIdentity.execute(model, pulid, identity, **values).args[0]
    return model


def depths_of(model: ModelPatcher) -> tuple[int, int]:
    """Return the number of double and single blocks."""
    transformer = model.model.diffusion_model
    return len(transformer.double_blocks), len(transformer.single_blocks)


@dataclass(frozen=True)
class Picture:
    """What one forward draws: ``rows`` of the batch, negative ones first as ComfyUI sorts them."""

    height: int = 1024
    width: int = 1024
    rows: tuple[int, ...] = (0,)  # cond_or_uncond: 0 the prompt, 1 the negative prompt
    references: int = 0  # Kontext's
    channels: int = 16  # of the latent; SDXL's has 4

    @property
    def shape(self) -> list[int]:
        """Shape of the latent [B, channels, H, W]."""
        return [len(self.rows), self.channels, self.height // 8, self.width // 8]


def prepare(model: ModelPatcher, picture: Picture) -> list[ModelPatcher]:
    """Load ``model`` and what its run needs as ComfyUI does before sampling; return the latter."""
    conds: dict[str, list] = {"positive": [], "negative": []}
    options = model_options(model)
    guider = CFGGuider(model)
    guider.conds, guider.model_options = conds, options
    guider.set_cfg(3.0 if 1 in picture.rows else 1.0)

    def load(*_: Any) -> list[ModelPatcher]:
        return comfy.sampler_helpers.prepare_sampling(model, picture.shape, conds, options)[2]

    wrappers = get_all_wrappers(WrappersMP.OUTER_SAMPLE, options, is_model_options=True)
    return WrapperExecutor.new_class_executor(load, guider, wrappers).execute()


def model_options(model: ModelPatcher) -> dict[str, Any]:
    """Return the options a guider would sample ``model`` with, wrappers included."""
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    options.setdefault("transformer_options", {})
    comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
    return options


def inputs_of(model: ModelPatcher, picture: Picture) -> dict[str, Any]:
    """Return what the model is told besides the noisy latent: text and the like."""
    where, rows = model.load_device, len(picture.rows)
    if hasattr(model.model.diffusion_model, "label_emb"):  # SDXL
        text, sizes = (rows, SDXL_TEXT_TOKENS, SDXL_TEXT_WIDTH), (rows, SDXL_SIZES)
        return {
            "c_crossattn": torch.empty(text, device=where),
            "y": torch.empty(sizes, device=where),
        }
    conds: dict[str, Any] = {
        "c_crossattn": torch.empty(rows, TEXT_TOKENS, TEXT_WIDTH, device=where),
        "guidance": torch.empty(rows, device=where),
    }
    if hasattr(model.model.diffusion_model, "vector_in"):  # Chroma has no pooled text
        conds["y"] = torch.empty(rows, TEXT_POOLED, device=where)
    if picture.references:
        reference = torch.empty(*picture.shape, device=where)
        conds["ref_latents"] = [reference] * picture.references
    return conds


def forward(model: ModelPatcher, picture: Picture) -> Tensor:
    """Run one prepared forward in a sampling run of its own, from latent to denoised latent.

    The sigma lies on the card, as it does there: hooks that read it fail.
    """
    where, rows = model.load_device, len(picture.rows)
    options = model_options(model)
    to = options["transformer_options"]
    with unset_fake_temporarily():
        to["sample_sigmas"] = torch.tensor(SIGMAS)  # on the CPU, where ComfyUI keeps them
    to["cond_or_uncond"] = list(picture.rows)
    conds = inputs_of(model, picture)
    noise = torch.empty(*picture.shape, device=where)
    sigma = torch.empty(rows, device=where)

    def step(guider: Any, sigmas: Tensor, extra: dict, callback: Any, x: Tensor) -> Tensor:
        given = {**extra["model_options"]["transformer_options"], "sigmas": sigma[:1]}
        return guider.inner_model.apply_model(x, sigma, transformer_options=given, **conds)

    wrappers = get_all_wrappers(WrappersMP.SAMPLER_SAMPLE, options, is_model_options=True)
    sampler = WrapperExecutor.new_executor(step, wrappers)
    guider = SimpleNamespace(inner_model=model.model, conds={})
    model.pre_run()
    try:
        return sampler.execute(guider, to["sample_sigmas"], {"model_options": options}, None, noise)
    finally:
        model.cleanup()


def with_authors(model: ModelPatcher, picture: Picture, people: int = 1) -> ModelPatcher:
    """Return a copy of ``model`` with the authors' formula after the same blocks.

    Once for each person, as chained nodes do; the layers are on the card already.
    """
    patched = model.clone()
    where = {"device": model.load_device, "dtype": model.model.get_dtype_inference()}
    tokens = [torch.empty(1, ID_TOKENS, TOKEN_WIDTH, **where) for _ in range(people)]
    count = picture.shape[-2] * picture.shape[-1] // 4
    for name, index, _ in block_layers(*depths_of(model)):
        layer = CrossAttention(WIDTH, TOKEN_WIDTH, HEADS, **where)
        start = TEXT_TOKENS if name == "single_block" else 0
        block = authors_block(layer, tokens, start, start + count)
        patched.set_model_patch_replace(block, "dit", name, index)
    return patched


def authors_block(
    layer: CrossAttention, people: Sequence[Tensor], start: int, end: int
) -> Callable:
    """Return a block followed by ``layer`` on the image tokens start … end - 1."""

    def block(args: dict, extra: dict) -> dict:
        out = extra["original_block"](args)
        img = out["img"]
        picture = img[:, start:end]
        for tokens in people:
            picture = picture + ADDED * layer(tokens.expand(len(img), -1, -1), picture)
        whole = start == 0 and end == img.shape[1]
        parts = (img[:, :start], picture, img[:, end:])
        return {**out, "img": picture if whole else torch.cat(parts, 1)}

    return block
