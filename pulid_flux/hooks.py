"""Where identity enters FLUX.

After every second double block and every fourth single block the authors add
``weight * attention(image tokens, ID tokens)`` to the image tokens. ComfyUI lets a forward's
blocks be replaced through ``transformer_options["patches_replace"]["dit"]``; here each replaced
block runs whatever was there before and then adds the identity. Three wrappers of the model do it:

    SAMPLER_SAMPLE   once per run: brings windows to the run's sigmas; at the end, an identity that
                     never got in is an error
    APPLY_MODEL      once per forward, outside torch.compile: decides what acts now, in a ``Call``
    DIFFUSION_MODEL  inside it: puts the blocks' functions in place, over those of other packs

Nothing here changes once made; a second Apply makes a new ``Injection`` of all identities. What
one run or one forward knows lives in its ``Run`` or ``Call``. Folded weights are in additional
models of the model, so that the host loads and frees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from ..identity.masks import to_tokens
from ..identity.rows import Call, Part, Run, batch_parts, learn_conds
from .folding import Applied, Target, Term, make_terms

KEY = "pulid_flux"
NOT_INSERTED = (
    "PuLID-Flux: the identity's window was open for {forwards} model calls, but no FLUX block "
    "asked for it, so the picture would not show the person. Another node has replaced FLUX's "
    "forward or skipped it in those steps (an accelerator or cache such as TeaCache or WaveSpeed, "
    "or a pack that copies the forward). Remove or bypass that node, or start its cache after the "
    "identity's window."
)


class Injection:
    """All identities applied to one model."""

    def __init__(self, target: Target, applied: tuple[Applied, ...], earlier: tuple[Term, ...]):
        self.target = target
        self.applied = applied
        self.terms = make_terms(target, applied, earlier)

    def install(self, model: ModelPatcher) -> None:
        """Put the wrappers and the folded weights of this injection in place of an earlier one."""
        wrappers = comfy.patcher_extension.WrappersMP
        for kind, wrapper in (
            (wrappers.SAMPLER_SAMPLE, self.sampler_sample),
            (wrappers.APPLY_MODEL, self.apply_model),
            (wrappers.DIFFUSION_MODEL, diffusion_model),
        ):
            model.remove_wrappers_with_key(kind, KEY)
            model.add_wrapper_with_key(kind, KEY, wrapper)
        model.set_additional_models(KEY, [term.patcher for term in self.terms])

    def sampler_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one sampling run."""
        guider = args[0]
        extra = next(a for a in args if isinstance(a, dict) and "model_options" in a)
        options = extra["model_options"]["transformer_options"]
        sigmas = options["sample_sigmas"].tolist()
        run = self.start_run(guider.inner_model.model_sampling, sigmas)
        noise = next(a for a in args if isinstance(a, Tensor) and a.ndim > 2)
        run.latent = tuple(noise.shape[-2:])
        for name, conds in getattr(guider, "conds", {}).items():
            learn_conds(run, "negative" in name, conds or [])
        options[KEY] = run
        out = executor(*args, **kwargs)
        if run.forwards and not run.inserted:
            raise RuntimeError(NOT_INSERTED.format(forwards=run.forwards))
        return out

    def start_run(self, model_sampling: Any, sigmas: list[float]) -> Run:
        """Return the state of a run with the sampling settings in force now."""
        to_sigma = model_sampling.percent_to_sigma
        return Run(tuple(a.window.resolve(to_sigma, sigmas) for a in self.applied))

    def apply_model(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        """Wrap one forward: decide which identities act on which rows of the batch."""
        base, found = executor.class_obj, {}

        def without_run(options: dict) -> dict:
            # a compiled forward is used by all branches of a graph: to it, options look alike
            found.update(options)
            return {key: value for key, value in options.items() if key != KEY}

        args, kwargs = with_options(without_run, args, kwargs)
        run = found.get(KEY) or self.start_run(base.model_sampling, [])
        call = self.make_call(run, args[0], found, base)
        if call is None:
            return executor(*args, **kwargs)
        run.forwards += 1
        try:
            return executor(*args, **kwargs, **{KEY: call})
        except TypeError as error:
            if KEY in str(error):  # a foreign forward that does not take further arguments
                raise RuntimeError(NOT_INSERTED.format(forwards=run.forwards)) from error
            raise

    def make_call(self, run: Run, x: Tensor, options: dict, base: Any) -> Call | None:
        """x [B, C, H, W] is the noisy latent of the forward; None if nothing acts now."""
        sigma = float(options["sigmas"].flatten()[0])  # the only read from the device
        weights = [
            a.weight * w.factor(sigma) for a, w in zip(self.applied, run.windows, strict=True)
        ]
        if not any(weights):
            return None
        patch = self.target.patch_size
        grid = [-(-size // patch) for size in x.shape[-2:]]
        modules = self.modules(base)
        parts = []
        for part in batch_parts(x.shape[0], options, run):
            gains = [self.gain(run, i, w, x, part) if w else None for i, w in enumerate(weights)]
            terms = []
            for term in self.terms:
                double: list[Tensor | None] = []
                single: list[Tensor | None] = []
                for group in term.groups:
                    acting = [i for i in group.members if weights[i]]
                    if group.unconditional != part.unconditional:
                        acting = []
                    a = self.applied
                    double.append(total([gains[i] * a[i].double_weight for i in acting]))
                    single.append(total([gains[i] * a[i].single_weight for i in acting]))
                if any(g is not None for g in double):
                    terms.append((modules[term.key].layers, double, single))
            if terms:
                parts.append((part.rows, terms))
        return Call(run, grid[0] * grid[1], parts) if parts else None

    def gain(self, run: Run, i: int, weight: float, x: Tensor, part: Part) -> Tensor:
        """Return identity i's factor for each token [rows, N, 1], or one for all of them [].

        A tensor, since torch.compile would make a new graph for each new number; a single factor
        stays on the CPU, where the device's kernels can take it from without waiting.
        """
        factor = torch.tensor(weight, dtype=torch.float32)
        mask = self.applied[i].mask
        if mask is None:
            return factor
        size = tuple(x.shape[-2:])
        # a call that is no area of the picture (a tile of another pack) gets the whole mask
        area = part.area if run.latent and part.area and part.area[:2] == size else None
        key = (i, size, area, part.rows.stop - part.rows.start, part.batch, x.device)
        if key not in run.masks:
            tokens = to_tokens(mask, run.latent if area else size, self.target.patch_size, area)
            rows = torch.arange(part.rows.start, part.rows.stop) % part.batch
            run.masks[key] = tokens[rows % len(tokens)].to(x.device)
        return run.masks[key] * factor

    def modules(self, base: Any) -> dict[str, nn.Module]:
        """Return the folded weights by term; on a second GPU they are that GPU's own copies."""
        patcher = getattr(base, "current_patcher", None)
        own = patcher.get_additional_models_with_key(KEY) if patcher is not None else []
        found = {p.model.key: p.model for p in own}
        return {t.key: found.get(t.key, t.patcher.model) for t in self.terms}


def total(gains: list[Tensor]) -> Tensor | None:
    """Return the sum, or None of nothing."""
    return sum(gains[1:], gains[0]) if gains else None


def diffusion_model(executor: Callable, *args: Any, **kwargs: Any) -> Any:
    """Wrap FLUX's forward: chain this call's identity onto its blocks."""
    call = kwargs.pop(KEY, None)
    if call is None:
        return executor(*args, **kwargs)
    depths = [len(getattr(executor.class_obj, f"{kind}_blocks")) for kind in ("double", "single")]

    def chained(options: dict) -> dict:
        replace = options.get("patches_replace", {})
        dit = dict(replace.get("dit", {}))
        for name, index, layer in block_layers(*depths):
            single = name == "single_block"  # gains: in double blocks, in single blocks
            parts = [
                (rows, [(stack[layer], gains[single]) for stack, *gains in layers])
                for rows, layers in call.parts
            ]
            dit[name, index] = IdentityBlock(call, parts, single, dit.get((name, index)))
        return {**options, "patches_replace": {**replace, "dit": dit}}

    args, kwargs = with_options(chained, args, kwargs)
    return executor(*args, **kwargs)


def with_options(
    change: Callable[[dict], dict], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a forward with its transformer_options changed.

    Models and versions differ in their positional arguments, so the options are found by what
    they are.
    """
    name = "transformer_options"
    if name in kwargs:
        return tuple(args), {**kwargs, name: change(kwargs[name])}
    at = next(i for i, a in enumerate(args) if isinstance(a, dict) and "sigmas" in a)
    return (*args[:at], change(args[at]), *args[at + 1 :]), kwargs


def block_layers(doubles: int, singles: int) -> list[tuple[str, int, int]]:
    """Return (block name, block index, cross-attention layer) for a model of these depths.

    Every second double block and every fourth single block, the single blocks' layers after the
    last one that a double block uses: 10 + 10 layers for FLUX.1's 19 and 38 blocks.
    """
    blocks = [("double_block", i) for i in range(0, doubles, 2)]
    blocks += [("single_block", i) for i in range(0, singles, 4)]
    return [(name, index, layer) for layer, (name, index) in enumerate(blocks)]


@dataclass(frozen=True)
class IdentityBlock:
    """A block of one forward with the identity added to the picture's own tokens."""

    call: Call
    parts: list[tuple[slice, list[tuple[nn.Module, list[Tensor | None]]]]]
    single: bool
    before: Callable | None  # what another pack, or another wrapper, put here

    def __call__(self, args: dict, extra: dict) -> dict:
        out = extra["original_block"](args) if self.before is None else self.before(args, extra)
        start = 0
        if self.single:  # text tokens come first
            options = args.get("transformer_options") or extra["transformer_options"]
            start = options["img_slice"][0]
        self.call.run.inserted = True
        return {**out, "img": add_identity(out["img"], start, self.call.tokens, self.parts)}


def add_identity(img: Tensor, start: int, tokens: int, parts: list) -> Tensor:
    """img [B, S, D] -> the same with identity added to tokens start … start + tokens - 1.

    A new tensor: what a block returned may be kept by somebody else.
    """
    out = img.clone()
    for rows, layers in parts:
        x = layer_norm(img[rows, start : start + tokens], img.shape[-1:])
        for layer, gains in layers:
            out[rows, start : start + tokens] += layer(x, gains)
    return out
