"""Packs that run FLUX's blocks in loops of their own, as accelerators and IP-Adapters do.

Each caller here is written for these tests in the manner of one such pack: what it passes to a
replaced block, and what it leaves out.
"""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
from comfy.ldm.flux.layers import timestep_embedding
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from standins.lab import cond, person, sample, small_flux, small_pulid


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode():
        return small_flux(depth=3, depth_single=5)


def identity(model, **more):
    return PuLIDFluxApplyIdentity.execute(model, small_pulid(), person(1), 1.0, 0.0, 1.0, **more)[0]


def bare(options: dict, **tensors) -> tuple[dict, dict]:
    """TeaCache, WaveSpeed, MagCache: the block's tensors and nothing else."""
    return tensors, {}


def second_dict(options: dict, **tensors) -> tuple[dict, dict]:
    """IPAdapter-Flux: the options stand beside the original block, made before img_slice is."""
    known = {k: v for k, v in options.items() if k != "img_slice"}
    return tensors, {"transformer_options": known}


def early_options(options: dict, **tensors) -> tuple[dict, dict]:
    """FluxForwardOverrider, NAG: options among the tensors, without img_slice."""
    known = {k: v for k, v in options.items() if k != "img_slice"}
    return {**tensors, "transformer_options": known}, {}


def as_the_host(options: dict, **tensors) -> tuple[dict, dict]:
    return {**tensors, "transformer_options": options}, {}


def loop(passing: Callable, skips: bool = False, doubles: bool = True) -> Callable:
    """Return a forward_orig that runs the blocks itself; with ``skips`` every second time only."""
    state = {"calls": 0, "residual": None}

    def forward_orig(self, img, img_ids, txt, txt_ids, timesteps, y, guidance, *_, **given):
        options = next(o for o in (*_, *given.values()) if isinstance(o, dict) and "sigmas" in o)
        replace = options.get("patches_replace", {}).get("dit", {})
        img, txt = self.img_in(img), self.txt_in(txt)
        vec = self.time_in(timestep_embedding(timesteps, 256).to(img.dtype))
        vec = vec + self.guidance_in(timestep_embedding(guidance, 256).to(img.dtype))
        vec = vec + self.vector_in(y)
        pe = self.pe_embedder(torch.cat((txt_ids, img_ids), 1))
        state["calls"] += 1
        if skips and state["calls"] % 2 == 0:
            return self.final_layer(img + state["residual"], vec)
        first = img
        for i, block in enumerate(self.double_blocks):

            def double(args, block=block):
                img, txt = block(img=args["img"], txt=args["txt"], vec=args["vec"], pe=args["pe"])
                return {"img": img, "txt": txt}

            args, extra = passing(options, img=img, txt=txt, vec=vec, pe=pe)
            if ("double_block", i) in replace and doubles:
                out = replace["double_block", i](args, {"original_block": double, **extra})
            else:
                out = double(args)
            img, txt = out["img"], out["txt"]
        img = torch.cat((txt, img), 1)
        options = {**options, "img_slice": [txt.shape[1], img.shape[1]]}
        for i, block in enumerate(self.single_blocks):

            def single(args, block=block):
                return {"img": block(args["img"], vec=args["vec"], pe=args["pe"])}

            args, extra = passing(options, img=img, vec=vec, pe=pe)
            if ("single_block", i) in replace:
                out = replace["single_block", i](args, {"original_block": single, **extra})
            else:
                out = single(args)
            img = out["img"]
        img = img[:, txt.shape[1] :]
        state["residual"] = img - first
        return self.final_layer(img, vec)

    return forward_orig


def take_over(model, forward_orig: Callable):
    """Return a clone whose calls run with another forward_orig, put back afterwards."""
    model = model.clone()

    def call(run, args):
        transformer = model.model.diffusion_model
        transformer.forward_orig = types.MethodType(forward_orig, transformer)
        try:
            return run(args["input"], args["timestep"], **args["c"])
        finally:
            del transformer.forward_orig

    model.set_model_unet_function_wrapper(call)
    return model


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("passing", [bare, second_dict, early_options, as_the_host])
def test_identity_acts_in_a_foreign_loop_as_in_the_hosts(flux, passing, order):
    assert torch.equal(sample(take_over(flux, loop(passing))), sample(flux))  # the loop is right
    if order == "before":
        model = identity(take_over(flux, loop(passing)))
    else:
        model = take_over(identity(flux), loop(passing))
    for settings in ({}, {"cfg": 3.0, "batch": 2}):
        # the same products; the loop joins text and image in another tensor
        expected = sample(identity(flux), **settings)
        torch.testing.assert_close(sample(model, **settings), expected, rtol=1e-5, atol=1e-5)


def test_only_single_blocks_act_in_a_bare_loop(flux):
    """The text's length is told by the double blocks, also where nothing is added to them."""
    model = identity(flux, double_weight=0.0)
    found = sample(take_over(model, loop(bare)))
    torch.testing.assert_close(found, sample(model), rtol=1e-5, atol=1e-5)


def test_a_cache_that_skips_every_second_step_keeps_the_identity(flux):
    with_identity = sample(take_over(identity(flux), loop(bare, skips=True)), steps=6)
    without = sample(take_over(flux, loop(bare, skips=True)), steps=6)
    assert not torch.allclose(with_identity, without, rtol=1e-2, atol=1e-2)


def test_where_the_text_length_cannot_be_known_the_error_is_named_and_early(flux):
    model = take_over(identity(flux), loop(bare, doubles=False))
    done = []
    with pytest.raises(RuntimeError, match="no FLUX block asked for it"):
        sample(model, steps=9, callback=lambda i, *_: done.append(i))
    assert done == [0]


def test_a_lengthened_text_is_measured_where_it_is(flux):
    text, more = cond(1)[0]
    longer = [[torch.cat((text, text, text), 1), more]]
    found = sample(take_over(identity(flux), loop(bare)), positive=longer)
    expected = sample(identity(flux), positive=longer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_cache_may_skip_a_step_whose_prompts_run_one_by_one(flux):
    """At cfg 3 prompts of other lengths take two forwards a step: both are the same step."""
    calls, own = [], loop(bare)

    def forward_orig(self, img, *args, **kwargs):
        calls.append(img.shape[0])
        return img * 0 if len(calls) <= 2 else own(self, img, *args, **kwargs)

    text, more = cond(2)[0]
    negative = [[torch.cat((text, text[:, :3]), 1), more]]
    picture = sample(take_over(identity(flux), forward_orig), steps=4, cfg=3.0, negative=negative)
    assert calls == [1] * 8 and torch.isfinite(picture).all()
