"""ComfyUI's own models under autograd, exactly, without a copy of their forward.

As they are, FLUX's blocks write into their inputs after their norms have kept these for the
gradient, so a backward pass fails, or, recomputed block by block from inputs that have been written
to, gives wrong gradients without an error. Inside ``trainable``

- each block works on copies of its inputs, and its norms on copies of what is written to later;
- each block is recomputed in the backward pass (checkpointing) from its own inputs and options: the
  host goes on writing into both;
- attention is torch's own, and what the host calls training is on;
- tensors that came out of inference mode are replaced by copies that autograd takes.

The weights stay frozen. At exit, also after an exception, all of it is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..identity.id_encoder import is_dynamic
from .base import Base
from .flux import FluxBase
from .sdxl import SDXLBase

BLOCKS = (DoubleStreamBlock, SingleStreamBlock, BasicTransformerBlock, ResBlock)
WRITTEN = ("img", "txt", "x")  # a block's arguments that it may write to


@contextmanager
def trainable(
    model: ModelPatcher, dtype: torch.dtype | None = None, recompute: bool = True
) -> Iterator[Base]:
    """Bring FLUX.1, Chroma, FLUX.2 or SDXL into a trainable state; yield what calls it.

    The whole model is loaded to its device. ``dtype`` is what it computes in, whatever its weights
    are stored in (None: the host's choice). Without ``recompute`` everything is kept for the
    gradient: less time, and far more memory. Raises ValueError for other models.
    """
    if is_dynamic(model):  # there, weights may leave the card before their gradient is made
        model = model.clone(disable_dynamic=True)
    base = base_of(model)
    with ExitStack() as stack:
        differentiable(model, stack)
        if dtype is not None:
            compute_in(model, dtype, stack)
        for block in blocks_of(base.net):
            set_for_now(block, "forward", of_copies(block.forward, recompute), stack)
            for norm in (m for m in block.modules() if isinstance(m, nn.LayerNorm)):
                stack.callback(norm.register_forward_pre_hook(copy_input).remove)
        yield base


@contextmanager
def frozen(model: ModelPatcher) -> Iterator[nn.Module]:
    """Load another module that gradients go through (a VAE's ``patcher``); yield it."""
    with ExitStack() as stack:
        differentiable(model, stack)
        yield model.model


def base_of(model: ModelPatcher) -> Base:
    """Return what calls ``model``; raise ValueError for a model that PuLID cannot be trained on."""
    net = getattr(model.model, "diffusion_model", None)
    for kind, base in (((Flux, Chroma), FluxBase), (UNetModel, SDXLBase)):
        if isinstance(net, kind):
            return base(model)
    raise ValueError(
        f"PuLID cannot be trained on this model ({type(model.model).__name__}, "
        f"{type(net).__name__}): expected FLUX.1, Chroma, FLUX.2 or SDXL, loaded with ComfyUI's "
        "own loaders."
    )


def differentiable(model: ModelPatcher, stack: ExitStack) -> None:
    """Load all of ``model`` and let gradients pass through it until the stack closes."""
    # no memory is asked for besides: that would send other models of the same run off the card
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    set_for_now(comfy.model_management, "in_training", True, stack)
    for module in model.model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if tensor.is_inference():
                    own[name] = ordinary(tensor)
                    stack.callback(own.__setitem__, name, tensor)
                elif tensor.requires_grad:
                    tensor.requires_grad_(False)
                    stack.callback(tensor.requires_grad_, True)


def ordinary(tensor: Tensor) -> Tensor:
    """Return a copy that autograd takes of a tensor made in inference mode."""
    copy = tensor.clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


def compute_in(model: ModelPatcher, dtype: torch.dtype, stack: ExitStack) -> None:
    """Let the host cast each weight to ``dtype`` where it is used."""
    set_for_now(model.model, "manual_cast_dtype", dtype, stack)
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            set_for_now(module, "comfy_cast_weights", True, stack)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """Return what is recomputed as a whole."""
    return [module for module in net.modules() if isinstance(module, BLOCKS)]


def set_for_now(owner: Any, name: str, value: Any, stack: ExitStack) -> None:
    """Set an attribute until the stack closes; one that a class gave is then the class's again."""
    if name in vars(owner):
        stack.callback(setattr, owner, name, vars(owner)[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def of_copies(forward: Callable, recompute: bool) -> Callable:
    """Return a block's forward that spares its inputs and, if asked, is recomputed backwards."""

    def of_own(*args: Any, **kwargs: Any) -> Any:
        args = [a.clone() if isinstance(a, Tensor) else a for a in args]
        copies = {key: kwargs[key].clone() for key in WRITTEN if key in kwargs}
        return forward(*args, **{**kwargs, **copies})

    def block(*args: Any, **kwargs: Any) -> Any:
        # the host's options name the block that runs: at the recomputation that must be this one
        args = [dict(a) if isinstance(a, dict) else a for a in args]
        kwargs = {key: dict(v) if isinstance(v, dict) else v for key, v in kwargs.items()}
        if not (recompute and torch.is_grad_enabled()):
            return of_own(*args, **kwargs)
        # nothing in a block is random
        plain = {"use_reentrant": False, "preserve_rng_state": False}
        return checkpoint(of_own, *args, **plain, **kwargs)

    return block


def copy_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Give a norm a copy of its input to keep, since the block writes to it later."""
    return (args[0].clone(), *args[1:]) if torch.is_grad_enabled() else None
