"""What other packs do to SDXL's batch and attention, in code of our own."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher


class Tiled:
    """A wrapper of the model that repeats the batch tile after tile in one call."""

    def __init__(self, at_once: bool):
        self.at_once = at_once

    def __call__(self, apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        tiles = [x[..., :12], x[..., 12:]]
        if not self.at_once:
            done = [apply_model(tile.contiguous(), t, **c) for tile in tiles]
            return torch.cat(done, -1)
        more = {k: torch.cat((v, v)) if isinstance(v, torch.Tensor) else v for k, v in c.items()}
        done = apply_model(torch.cat(tiles), torch.cat((t, t)), **more)
        return torch.cat(done.chunk(2), -1)


def coupled(model, parts: int, tells: bool):
    """Give each of ``parts`` parts of the picture the same prompt, inside the attention."""
    patched = model.clone()

    def repeat(q, k, v, extra):
        chunks = extra["cond_or_uncond"]
        pieces = list(zip(chunks, *(x.chunk(len(chunks)) for x in (q, k, v)), strict=True))
        many = [piece for piece in pieces for _ in range(1 if piece[0] == 1 else parts)]
        if tells:
            extra["cond_or_uncond_couple"] = [piece[0] for piece in many]
        return tuple(torch.cat([piece[i] for piece in many]) for i in (1, 2, 3))

    def merge(out, extra):
        pictures = len(out) // sum(1 if c == 1 else parts for c in extra["cond_or_uncond"])
        merged, at = [], 0
        for chunk in extra["cond_or_uncond"]:
            count = 1 if chunk == 1 else parts
            own = out[at : at + count * pictures]
            merged.append(own.unflatten(0, (count, pictures)).mean(0))
            at += count * pictures
        return torch.cat(merged)

    patched.set_model_attn2_patch(repeat)
    patched.set_model_attn2_output_patch(merge)
    return patched


def further_text(model: ModelPatcher) -> ModelPatcher:
    """Give the layers one row of text more than the image has, and an attention that knows it.

    As packs of normalized attention guidance do; here the further row has no effect.
    """
    patched = model.clone()

    def more_context(executor, x, timesteps, context, *rest, **more):
        return executor(x, timesteps, torch.cat((context, -context[-1:])), *rest, **more)

    def without(forward):
        def attend(x, context=None, value=None, **more):
            value = None if value is None else value[: len(x)]
            return forward(x, context=context[: len(x)], value=value, **more)

        return attend

    patched.add_wrapper_with_key("diffusion_model", "further text", more_context)
    for name, module in model.model.diffusion_model.named_modules():
        if name.endswith(".attn2"):
            patched.add_object_patch(f"diffusion_model.{name}.forward", without(module.forward))
    return patched
