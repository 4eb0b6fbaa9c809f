"""How an identity gets into a sampling run of any model family.

Four wrappers of the model do it; each family says what acts in a forward and where:

    OUTER_SAMPLE     once per run, before models are loaded: asks only for what its rows need
    SAMPLER_SAMPLE   once per run: brings windows to the run's sigmas; at the end, warns of
                     an identity that did not act
    APPLY_MODEL      once per forward, outside torch.compile: decides what acts now
    DIFFUSION_MODEL  inside it: puts the family's functions in place, over those of other packs

Nothing here changes once made; a second Apply makes new hooks of all identities. What one run or
one forward knows lives in its ``SamplingRun`` or ``Forward``. Prepared layers are additional models
of the model, so that the host loads and frees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

from .id_encoder import is_dynamic
from .prepared import DiffusionModel, PreparedLayers, share
from .rows import Rows
from .run import IdentityUse, SamplingRun, report, runs_negative, start_run

HOST_CACHES = {"easycache", "lazycache"}  # they may skip several forwards in a row
PATIENCE = 2  # steps without identity before the run is stopped: other packs' caches skip one
Weights = dict[int, float]  # of the uses that act, by their number; none is 0


@dataclass(kw_only=True)
class Forward:
    """What acts in one forward; it travels as a keyword argument, so torch.compile guards it.

    (torch.compile as ComfyUI uses it guards nothing inside ``transformer_options``: what stands
    there when the graph is made would act, or not act, for ever.)
    """

    run: SamplingRun
    rows: list[tuple[Rows, list[Any]]] = field(default_factory=list)  # what acts on which rows


class IdentityHooks:
    """All identities of one family that are applied to one model."""

    key: str  # of wrappers, additional models and attachment; set by the family
    not_inserted: str  # the error of a run in which no layer asked; takes {forwards}

    def __init__(self, target: DiffusionModel, uses: Sequence[IdentityUse]):
        self.target = target
        self.uses = tuple(uses)
        self.shared = share(self.uses, target)

    def forward_of(self, run: SamplingRun, x: Tensor) -> Forward:
        """Return an empty record of the forward of the noisy latent ``x`` [B, C, H, W]."""
        raise NotImplementedError

    def acting(
        self, layers: nn.ModuleList, weights: Weights, run: SamplingRun, x: Tensor, rows: Rows
    ) -> list[Any]:
        """Return what acts on these rows through prepared layers."""
        raise NotImplementedError

    def put_in_place(self, forward: Forward, replace: dict[str, dict]) -> dict[str, dict]:
        """Return ``patches_replace`` with this forward's functions chained onto what is there."""
        raise NotImplementedError

    def start_forward(self, run: SamplingRun, x: Tensor, options: dict, base: Any) -> Forward:
        """Return what acts in the forward of the noisy latent ``x`` [B, C, H, W]."""
        forward = self.forward_of(run, x)
        weights = run.weights(self.uses, options)
        if not any(weights):
            return forward
        modules = self.modules(base)
        for rows in run.prompts.rows(x.shape[0], run.pictures, options):
            acting = []
            for one in self.shared:
                users = one.negative if rows.unconditional else one.positive
                if own := {i: weights[i] for i in users if weights[i]}:
                    acting += self.acting(modules[one.prepared.key].layers, own, run, x, rows)
            if acting:
                forward.rows.append((rows, acting))
        return forward

    def install(self, model: ModelPatcher) -> None:
        """Put wrappers and prepared layers in place of those of an earlier Apply."""
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self.outer_sample),
            (WrappersMP.SAMPLER_SAMPLE, self.sampler_sample),
            (WrappersMP.APPLY_MODEL, self.apply_model),
            (WrappersMP.DIFFUSION_MODEL, self.diffusion_model),
        ):
            model.remove_wrappers_with_key(kind, self.key)
            model.add_wrapper_with_key(kind, self.key, wrapper)
        model.remove_callbacks_with_key(CallbacksMP.ON_CLONE, self.key)
        model.add_callback_with_key(CallbacksMP.ON_CLONE, self.key, self.follow_model)
        model.set_attachments(self.key, self)
        model.set_additional_models(self.key, [one.prepared.patcher for one in self.shared])

    def outer_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one run before its models are loaded: leave out what no row of it needs."""
        if runs_negative(executor.class_obj):
            return executor(*args, **kwargs)
        model = executor.class_obj.model_patcher
        every = model.get_additional_models_with_key(self.key)
        needed = {one.prepared.key for one in self.shared if one.positive}
        model.set_additional_models(self.key, [p for p in every if p.model.key in needed])
        try:
            return executor(*args, **kwargs)
        finally:
            model.set_additional_models(self.key, every)

    def sampler_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one sampling run. Raises RuntimeError if no layer ever asked for the identity."""
        guider = args[0]
        extra = next(a for a in args if isinstance(a, dict) and "model_options" in a)
        options = extra["model_options"]["transformer_options"]
        to_sigma = guider.inner_model.model_sampling.percent_to_sigma
        run = start_run(self.uses, to_sigma, options["sample_sigmas"].tolist())
        noise = next(a for a in args if isinstance(a, Tensor) and a.ndim > 2)
        run.pictures, run.latent = noise.shape[0], tuple(noise.shape[-2:])
        for name, conds in getattr(guider, "conds", {}).items():
            run.prompts.learn("negative" in name, conds or [])
        options[self.key] = run
        out = executor(*args, **kwargs)
        if run.forwards and not run.inserted:
            raise RuntimeError(self.not_inserted.format(forwards=run.forwards))
        report(run, self.uses)
        return out

    def apply_model(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one forward: decide which identities act on which rows of the batch.

        Raises RuntimeError after the first forwards that cannot have worked.
        """
        base, options = executor.class_obj, find_options(args, kwargs)
        to_sigma = base.model_sampling.percent_to_sigma
        run = options.get(self.key) or start_run(self.uses, to_sigma, [])
        forward = self.start_forward(run, args[0], options, base)
        # a compiled forward is used by all branches of a graph: to it, options look alike
        plain = {key: value for key, value in options.items() if key != self.key}
        args, kwargs = with_options(args, kwargs, plain)
        if not forward.rows:
            return executor(*args, **kwargs)
        run.forwards += 1
        try:
            out = executor(*args, **kwargs, **{self.key: forward})
        except TypeError as error:
            if self.key in str(error):  # a foreign forward that does not take further arguments
                raise RuntimeError(self.not_inserted.format(forwards=run.forwards)) from error
            raise
        caches = (
            HOST_CACHES & options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).keys()
        )
        if not run.inserted:  # a step may take several forwards; its sigma is read only here
            run.missed.add(float(options["sigmas"].flatten()[0]))
        if len(run.missed) >= PATIENCE and not (run.inserted or caches):
            raise RuntimeError(self.not_inserted.format(forwards=run.forwards))
        return out

    def diffusion_model(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap the diffusion model's forward: put what acts in this forward in place."""
        forward = kwargs.pop(self.key, None)
        if forward is None:
            return executor(*args, **kwargs)
        options = find_options(args, kwargs)
        replace = self.put_in_place(forward, options.get("patches_replace", {}))
        args, kwargs = with_options(args, kwargs, {**options, "patches_replace": replace})
        return executor(*args, **kwargs)

    def modules(self, base: Any) -> dict[str, PreparedLayers]:
        """Return the prepared layers by key; a clone on another GPU has its own."""
        patcher = getattr(base, "current_patcher", None)
        own = patcher.get_additional_models_with_key(self.key) if patcher is not None else []
        found = {p.model.key: p.model for p in own}
        every = [one.prepared for one in self.shared]
        return {one.key: found.get(one.key, one.patcher.model) for one in every}

    def follow_model(self, _: ModelPatcher, clone: ModelPatcher) -> None:
        """Let prepared layers leave dynamic VRAM where a clone of their model does."""
        if not is_dynamic(clone):
            own = clone.get_additional_models_with_key(self.key)
            plain = [p.clone(disable_dynamic=True) if is_dynamic(p) else p for p in own]
            clone.set_additional_models(self.key, plain)


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
