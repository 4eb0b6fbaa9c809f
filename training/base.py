"""A frozen diffusion model as training calls it, the same for every family."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import comfy.samplers
import comfy.utils
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from torch import Tensor

from . import losses
from .samples import Conditions, Features

FLOW, NOISE, V = "flow", "noise", "v"  # what a model predicts
NO_FEATURES = (
    "This ComfyUI shows nothing of the model's {kind} during a forward, which alignment is to "
    "compare. Take the other kind of features (blocks or queries), or update ComfyUI."
)
NOT_ON_CARD = (
    "{name} was sent off the card (to {device}) by another model that training loaded: they do not "
    "fit in its memory together, and gradients need all weights there. Take a base model in fp8, "
    "or leave out what is loaded besides it."
)
Prepared = dict[str, Any]  # conditions as the model's forward takes them, on its device


class Base:
    """ComfyUI's model ``model``, called inside ``trainable``; see its subclasses for the families.

    Latents are as ComfyUI samples them (``process_latent_in`` of the VAE's). ``sigma`` [B] is a
    flow model's time in 0..1, or the noise's size of an SDXL whose picture is x0 + σ · ε.
    """

    scheduler: str  # of the few steps
    features: str  # what alignment compares, unless told otherwise

    def __init__(self, model: ModelPatcher):
        self.model = model
        self.kind = prediction(model)

    @property
    def net(self) -> torch.nn.Module:
        """The transformer or UNet."""
        return self.model.model.diffusion_model

    @property
    def device(self) -> torch.device:
        return self.model.load_device

    @property
    def sampling(self) -> Any:
        """The host's schedule of this model."""
        return self.model.get_model_object("model_sampling")

    def sigmas(self, steps: int, scheduler: str = "") -> list[float]:
        """Return steps + 1 sigmas, the last one 0, of one of the host's schedulers."""
        scheduler = scheduler or self.scheduler
        return comfy.samplers.calculate_sigmas(self.sampling, scheduler, steps).tolist()

    def noised(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return the picture x0 with noise; both [B, C, H, W], sigma [B]."""
        return self.sampling.noise_scaling(sigma, noise, x0)

    def prepare(self, conditions: Conditions, x: Tensor) -> Prepared:
        """Return what the forwards of latents like ``x`` [B, C, H, W] get, on the model's device.

        By the host's own rules for each model. Once for all steps of a picture: it may wait for
        the card, forwards do not.
        """
        like = torch.empty(x.shape, dtype=torch.float32)
        entries = {"width": x.shape[-1] * 8, "height": x.shape[-2] * 8, **conditions.entries()}
        found = self.model.model.extra_conds(noise=like, device=like.device, **entries)
        prepared = {}
        for key, cond in found.items():
            value = cond.process_cond(batch_size=len(x), device=like.device, area=None).cond
            if isinstance(value, list):
                value = [self.ready(one) for one in value]
            prepared[key] = self.ready(value)
        return prepared

    def ready(self, value: Any) -> Any:
        """Return a value on the model's device, in its dtype."""
        if not isinstance(value, Tensor):
            return value
        dtype = self.model.model.get_dtype_inference() if value.is_floating_point() else None
        return value.to(self.device, dtype)

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        cond: Prepared,
        identity: Any = None,
        features: Features | None = None,
    ) -> Tensor:
        """Return what the model predicts for x [B, C, H, W] at sigma [B], in x's dtype.

        ``identity`` is what an adapter makes of ID tokens; ``features`` is filled. Raises
        RuntimeError where the host does not show such features, or if the model left the card.
        """
        host, cond = self.model.model, dict(cond)
        self.check_loaded()
        dtype = host.get_dtype_inference()
        inside = self.sampling.calculate_input(sigma, x)
        if "c_concat" in cond:  # FLUX.1 Fill and the like
            inside = torch.cat([inside, cond.pop("c_concat").to(inside)], 1)
        context = cond.pop("c_crossattn")
        t = host.process_timestep(self.sampling.timestep(sigma).float(), x=x, **cond)
        options = self.options(x, sigma, identity, features)
        out = self.net(inside.to(dtype), t, context=context, transformer_options=options, **cond)
        if features is not None:
            features.open = False
            if not features.q:
                raise RuntimeError(NO_FEATURES.format(kind=features.kind))
        return out.to(x.dtype)

    def check_loaded(self) -> None:
        """Raise RuntimeError if the host has sent the model, or a part of it, off the card."""
        device = next(self.net.parameters()).device
        if device != self.device or getattr(self.model.model, "model_lowvram", False):
            name = type(self.model.model).__name__
            raise RuntimeError(NOT_ON_CARD.format(name=name, device=self.model.offload_device))

    def options(self, x: Tensor, sigma: Tensor, identity: Any, features: Features | None) -> dict:
        """Return the forward's transformer_options, with what patches the model has."""
        own = create_model_options_clone(self.model.model_options).get("transformer_options", {})
        # the host's choice of attention may be rough, or depend on how much memory is free
        own = {**own, "sigmas": sigma, "optimized_attention_override": exact_attention}
        own |= {"cond_or_uncond": [0], "wrappers": own.get("wrappers", {})}
        return {**own, **self.patches(x, own, identity, features)}

    def patches(self, x: Tensor, own: dict, identity: Any, features: Features | None) -> dict:
        """Return the entries of transformer_options that put identity and features in place."""
        raise NotImplementedError

    def denoised(self, out: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate of x0 from a prediction ``out`` at x."""
        return self.sampling.calculate_denoised(sigma, out, x)

    def slope(self, out: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return dx/dσ, along which Euler's method goes."""
        if self.kind != V:
            return out
        return (x - self.denoised(out, x, sigma)) / sigma.reshape(-1, 1, 1, 1)

    def diffusion_loss(self, out: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return L_diff, the loss that this model was trained with."""
        if self.kind == FLOW:
            return losses.flow_matching(out, x0, noise)
        if self.kind == NOISE:
            return losses.noise_prediction(out, noise)
        return losses.v_prediction(out, x0, noise, sigma)


def prediction(model: ModelPatcher) -> str:
    """Return what the model predicts; raise ValueError for a kind that has no loss here."""
    sampling, kinds = model.get_model_object("model_sampling"), comfy.model_sampling
    if isinstance(sampling, kinds.CONST):
        return FLOW
    if not isinstance(sampling, (kinds.EDM, kinds.X0)):
        if isinstance(sampling, kinds.V_PREDICTION):
            return V
        if isinstance(sampling, kinds.EPS):
            return NOISE
    raise ValueError(
        f"PuLID cannot be trained on a model that predicts as {type(sampling).__mro__[1].__name__} "
        "does: expected flow matching, noise (EPS) or v prediction."
    )


def exact_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """torch's own attention in place of the host's choice (of its attention functions)."""
    return attention_pytorch(*args, **kwargs)
