"""Where identity enters FLUX.

After every second double block and every fourth single block the authors add
``weight * attention(image tokens, ID tokens)`` to the image tokens. ComfyUI lets a forward's
blocks be replaced through ``transformer_options["patches_replace"]["dit"]``; here each replaced
block runs whatever was there before and then adds the identity. Four wrappers of the model do it:

    OUTER_SAMPLE     once per run, before models are loaded: asks only for what its rows need
    SAMPLER_SAMPLE   once per run: brings windows to the run's sigmas; at the end, warns of
                     an identity that did not act
    APPLY_MODEL      once per forward, outside torch.compile: decides what acts now
    DIFFUSION_MODEL  inside it: puts the blocks' functions in place, over those of other packs

Nothing here changes once made; a second Apply makes new ``IdentityHooks`` of all identities. What
one run or one forward knows lives in its ``SamplingRun`` or ``Forward``. Folded layers are
additional models of the model, so that the host loads and frees them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

from ..identity.id_encoder import is_dynamic
from ..identity.rows import Rows
from ..identity.run import SamplingRun, report, runs_negative, start_run
from .blocks import Acting, Forward, IdentityBlock
from .folding import FluxModel
from .uses import FluxUse, fold_uses

log = logging.getLogger(__name__)
KEY = "pulid_flux"
HOST_CACHES = {"easycache", "lazycache"}  # they may skip several forwards in a row
PATIENCE = 2  # steps without identity before the run is stopped: other packs' caches skip one
NOT_INSERTED = (
    "PuLID-Flux: the identity's window was open for {forwards} model calls, but no FLUX block "
    "asked for it, so the picture would not show the person. Another node has replaced FLUX's "
    "forward or skipped it in those steps (an accelerator or cache such as TeaCache or WaveSpeed, "
    "or a pack that copies the forward). Remove or bypass that node, or start its cache after the "
    "identity's window. Some packs change the loaded model itself: then unload the models as well "
    "(ComfyUI's Unload Models), since it stays changed until it is loaded again."
)

MASK_IN_TILES = (
    "PuLID-Flux: identity {number} has a mask or region, but another node samples the image in "
    "tiles (latent {tile} of {whole}), so the mask covers each tile as a whole. Remove the mask "
    "and region, or the tiles."
)


class IdentityHooks:
    """All identities applied to one model."""

    def __init__(self, flux: FluxModel, uses: Sequence[FluxUse]):
        self.flux = flux
        self.uses = tuple(uses)
        self.folds = fold_uses(flux, self.uses)

    def install(self, model: ModelPatcher) -> None:
        """Put wrappers and folded layers in place of those of an earlier Apply."""
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self.outer_sample),
            (WrappersMP.SAMPLER_SAMPLE, self.sampler_sample),
            (WrappersMP.APPLY_MODEL, self.apply_model),
            (WrappersMP.DIFFUSION_MODEL, self.diffusion_model),
        ):
            model.remove_wrappers_with_key(kind, KEY)
            model.add_wrapper_with_key(kind, KEY, wrapper)
        model.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
        model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, follow_model)
        model.set_attachments(KEY, self)
        model.set_additional_models(KEY, [used.fold.patcher for used in self.folds])

    def outer_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one run before its models are loaded: leave out what no row of it needs."""
        if runs_negative(executor.class_obj):
            return executor(*args, **kwargs)
        model = executor.class_obj.model_patcher
        every = model.get_additional_models_with_key(KEY)
        needed = {used.fold.key for used in self.folds if used.positive}
        model.set_additional_models(KEY, [p for p in every if p.model.key in needed])
        try:
            return executor(*args, **kwargs)
        finally:
            model.set_additional_models(KEY, every)

    def sampler_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one sampling run. Raises RuntimeError if no block ever asked for the identity."""
        guider = args[0]
        extra = next(a for a in args if isinstance(a, dict) and "model_options" in a)
        options = extra["model_options"]["transformer_options"]
        to_sigma = guider.inner_model.model_sampling.percent_to_sigma
        run = start_run(self.uses, to_sigma, options["sample_sigmas"].tolist())
        noise = next(a for a in args if isinstance(a, Tensor) and a.ndim > 2)
        run.pictures, run.latent = noise.shape[0], tuple(noise.shape[-2:])
        for name, conds in getattr(guider, "conds", {}).items():
            run.prompts.learn("negative" in name, conds or [])
        options[KEY] = run
        out = executor(*args, **kwargs)
        if run.forwards and not run.inserted:
            raise RuntimeError(NOT_INSERTED.format(forwards=run.forwards))
        report(run, self.uses)
        return out

    def apply_model(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one forward: decide which identities act on which rows of the batch.

        Raises RuntimeError after the first forwards that cannot have worked.
        """
        base, options = executor.class_obj, find_options(args, kwargs)
        to_sigma = base.model_sampling.percent_to_sigma
        run = options.get(KEY) or start_run(self.uses, to_sigma, [])
        forward = self.start_forward(run, args[0], options, base)
        # a compiled forward is used by all branches of a graph: to it, options look alike
        plain = {key: value for key, value in options.items() if key != KEY}
        args, kwargs = with_options(args, kwargs, plain)
        if not forward.rows:
            return executor(*args, **kwargs)
        run.forwards += 1
        try:
            out = executor(*args, **kwargs, **{KEY: forward})
        except TypeError as error:
            if KEY in str(error):  # a foreign forward that does not take further arguments
                raise RuntimeError(NOT_INSERTED.format(forwards=run.forwards)) from error
            raise
        caches = (
            HOST_CACHES & options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).keys()
        )
        if not run.inserted:  # a step may take several forwards; its sigma is read only here
            run.missed.add(float(options["sigmas"].flatten()[0]))
        if len(run.missed) >= PATIENCE and not (run.inserted or caches):
            raise RuntimeError(NOT_INSERTED.format(forwards=run.forwards))
        return out

    def start_forward(self, run: SamplingRun, x: Tensor, options: dict, base: Any) -> Forward:
        """Return what acts in the forward of the noisy latent ``x`` [B, C, H, W]."""
        height, width = (-(-size // self.flux.patch_size) for size in x.shape[-2:])
        forward = Forward(run, height * width)
        weights = run.weights(self.uses, options)
        if not any(weights):
            return forward
        modules = self.modules(base)
        for rows in run.prompts.rows(x.shape[0], run.pictures, options):
            acting = []
            for used in self.folds:
                users = used.negative if rows.unconditional else used.positive
                shares = {i: weights[i] for i in users if weights[i]}
                if shares:
                    gains = self.gains(shares, run, x, rows)
                    acting.append(Acting(modules[used.fold.key].layers, *gains))
            if acting:
                forward.rows.append((rows.rows, acting))
        return forward

    def gains(
        self, weights: dict[int, float], run: SamplingRun, x: Tensor, rows: Rows
    ) -> list[Tensor | None]:
        """Return the summed gains [rows, N, 1] or [] of these uses in double and single blocks."""
        total: list[Any] = [0.0, 0.0]
        for i, weight in weights.items():
            use, share = self.uses[i], weight
            if use.mask is not None:
                known = len(run.masks)
                share = weight * run.mask(i, use.mask, x, rows, self.flux.patch_size)
                if len(run.masks) > known:  # once for each size
                    warn_of_tiles(i, run, x, rows)
            total[0] = total[0] + share * use.double_weight
            total[1] = total[1] + share * use.single_weight
        dtype = self.flux.dtype
        return [
            gain.to(dtype)
            if isinstance(gain, Tensor)
            else torch.full((), gain, dtype=dtype, device=x.device)
            if gain
            else None
            for gain in total
        ]

    def diffusion_model(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap FLUX's forward: chain this forward's identity onto its blocks."""
        forward = kwargs.pop(KEY, None)
        if forward is None:
            return executor(*args, **kwargs)
        options = find_options(args, kwargs)
        replace = options.get("patches_replace", {})
        dit = dict(replace.get("dit", {}))
        for number, (name, index, _) in enumerate(self.flux.blocks):
            single = name == "single_block"
            acting = []
            for rows, sets in forward.rows:
                pairs = [(s.layers[number], s.single if single else s.double) for s in sets]
                if pairs := [pair for pair in pairs if pair[1] is not None]:
                    acting.append((rows, pairs))
            dit[name, index] = IdentityBlock(forward, acting, single, dit.get((name, index)))
        chained = {**options, "patches_replace": {**replace, "dit": dit}}
        args, kwargs = with_options(args, kwargs, chained)
        return executor(*args, **kwargs)

    def modules(self, base: Any) -> dict[str, nn.Module]:
        """Return the folded layers by key; a clone on another GPU has its own."""
        patcher = getattr(base, "current_patcher", None)
        own = patcher.get_additional_models_with_key(KEY) if patcher is not None else []
        found = {p.model.key: p.model for p in own}
        return {u.fold.key: found.get(u.fold.key, u.fold.patcher.model) for u in self.folds}


def warn_of_tiles(number: int, run: SamplingRun, x: Tensor, rows: Rows) -> None:
    """Say that a mask cannot be where it should: nobody tells which part of the image a tile is."""
    size = tuple(x.shape[-2:])
    if run.latent and not rows.area and size != run.latent:
        log.warning(MASK_IN_TILES.format(number=number + 1, tile=size, whole=run.latent))


def follow_model(_: ModelPatcher, clone: ModelPatcher) -> None:
    """Let folded layers leave dynamic VRAM where a clone of their model does."""
    if not is_dynamic(clone):
        own = clone.get_additional_models_with_key(KEY)
        plain = [p.clone(disable_dynamic=True) if is_dynamic(p) else p for p in own]
        clone.set_additional_models(KEY, plain)


def find_options(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the transformer_options among a forward's arguments.

    Models and versions differ in their positional arguments, so they are found by what they are.
    """
    if "transformer_options" in kwargs:
        return kwargs["transformer_options"]
    return next(a for a in args if isinstance(a, dict) and "sigmas" in a)


def with_options(
    args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a forward's arguments with other transformer_options."""
    if "transformer_options" in kwargs:
        return tuple(args), {**kwargs, "transformer_options": options}
    at = next(i for i, a in enumerate(args) if isinstance(a, dict) and "sigmas" in a)
    return (*args[:at], options, *args[at + 1 :]), kwargs
