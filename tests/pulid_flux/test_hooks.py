"""Identity in a real FLUX, sampled by the real host: exact, separate, and gone when not wanted."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.run import start_run
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.apply import hooks_of
from pulid_pack.pulid_flux.blocks import block_layers
from pulid_pack.pulid_flux.checkpoint import from_state_dict
from pulid_pack.pulid_flux.cross_attention import FoldingLayer
from pulid_pack.pulid_flux.folding import FluxModel, fold
from pulid_pack.pulid_flux.hooks import NOT_INSERTED
from standins.flux import random_weights, write_flux
from standins.lab import LATENT, cond, identity_layers, person, sample, small_flux, small_pulid
from standins.pulid import cross_attention_shapes, encoder_shapes
from torch._subclasses.fake_tensor import FakeTensorMode

multigpu = pytest.mark.skipif(
    not hasattr(ModelPatcher, "deepclone_multigpu"),
    reason="this ComfyUI does not clone models for further GPUs (from 0.24)",
)


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode():
        return small_flux(depth=5, depth_single=9)  # three layers of each kind: a fifth of the time


@pytest.fixture(scope="module")
def pulid():
    with torch.inference_mode():
        return small_pulid()


def apply(model, pulid, identity, weight=1.0, start_at=0.0, end_at=1.0, **more):
    return PuLIDFluxApplyIdentity.execute(model, pulid, identity, weight, start_at, end_at, **more)[
        0
    ]


def watch(model, layer: int = 0) -> list[tuple[str, tuple[int, ...]]]:
    """Record every call of an identity layer: (conditional or not, shape of its image tokens)."""
    calls = []
    for used in hooks_of(model).shared:
        layers, kind = used.prepared.patcher.model, "uncond" if used.negative else "cond"
        layers.layers[layer].register_forward_pre_hook(
            lambda _, args, kind=kind: calls.append((kind, tuple(args[0].shape)))
        )
    return calls


def half_mask(side: str, size=(96, 80)) -> torch.Tensor:
    mask = torch.zeros(1, *size)
    mask[:, :, : size[1] // 2] = 1
    return mask if side == "left" else 1 - mask


def test_identity_changes_the_picture(flux, pulid):
    plain, with_identity = sample(flux), sample(apply(flux, pulid, person(1)))
    assert (plain - with_identity).abs().mean() > 0.01 * plain.std()
    assert torch.isfinite(with_identity).all()


@pytest.mark.parametrize(
    "setting",
    [
        {"weight": 0.0},
        {"start_at": 0.5, "end_at": 0.5},
        {"start_at": 0.7, "end_at": 0.2},
        {"start_at": 1.0, "end_at": 1.0},
        {"start_step": 3, "end_step": 2},
        {"start_step": 99},
        {"attn_mask": torch.zeros(1, 8, 8)},
        {"double_weight": 0.0, "single_weight": 0.0},
    ],
    ids=str,
)
def test_nothing_is_bit_identical(flux, pulid, setting):
    assert torch.equal(sample(apply(flux, pulid, person(1), **setting)), sample(flux))


def test_all_ones_mask_is_no_mask(flux, pulid):
    masked = apply(flux, pulid, person(1), attn_mask=torch.ones(1, 33, 65))
    assert torch.equal(sample(masked), sample(apply(flux, pulid, person(1))))


def test_the_model_is_never_changed(flux, pulid):
    before = sample(flux)
    a = apply(flux, pulid, person(1))
    first = sample(a)
    b = apply(a, pulid, person(2), weight=0.6)
    assert not torch.equal(sample(b), first)
    assert torch.equal(sample(a), first)
    assert torch.equal(sample(flux), before)


def test_order_does_not_matter(flux, pulid):
    settings = [{"weight": 0.8}, {"weight": 0.5, "start_at": 0.3}]
    one = apply(apply(flux, pulid, person(1), **settings[0]), pulid, person(2), **settings[1])
    two = apply(apply(flux, pulid, person(2), **settings[1]), pulid, person(1), **settings[0])
    # sums of the same float32 terms in another order
    torch.testing.assert_close(sample(one), sample(two), rtol=1e-4, atol=1e-4)


def test_same_identity_twice_is_the_sum_of_weights(flux, pulid):
    twice = apply(apply(flux, pulid, person(1), weight=0.4), pulid, person(1), weight=0.6)
    assert len(identity_layers(twice)) == 2  # one fold for each kind of rows
    once = apply(flux, pulid, person(1), weight=1.0)
    torch.testing.assert_close(sample(twice), sample(once), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
def test_true_cfg_gives_the_unconditional_rows_the_zero_identity(flux, pulid, batch):
    model = apply(flux, pulid, person(1))
    calls = watch(model)
    sample(model, cfg=3.0, batch=batch, steps=2)
    tokens = LATENT[0] * LATENT[1] // 4
    rows = {kind: [s for k, s in calls if k == kind] for kind in ("cond", "uncond")}
    assert sum(s[0] for s in rows["cond"]) == sum(s[0] for s in rows["uncond"]) == 2 * batch
    assert {s[1:] for _, s in calls} == {(tokens, 128)}


def test_unconditional_choices(flux, pulid):
    pictures = [
        sample(apply(flux, pulid, person(1), unconditional=choice), cfg=3.0)
        for choice in ("zero identity", "same identity", "none")
    ]
    for i in range(3):
        for j in range(i):
            assert not torch.equal(pictures[i], pictures[j])
    without_cfg = [
        sample(apply(flux, pulid, person(1), unconditional=choice))
        for choice in ("zero identity", "none")
    ]
    assert torch.equal(*without_cfg)


def open_steps(model, **settings) -> list[int]:
    """Return the steps of a run in which identity acted."""
    calls, opened, step = watch(model), [], 0

    def callback(i, *_):
        nonlocal step
        if len(calls) > step:
            opened.append(i)
        step = len(calls)

    sample(model, callback=callback, **settings)
    return opened


@pytest.mark.parametrize(
    ("window", "steps", "expected"),
    [
        ({"start_at": 4 / 28}, 28, range(4, 28)),
        ({"start_at": 0.143}, 28, range(4, 28)),
        ({"start_at": 4 / 20}, 20, range(4, 20)),
        ({"start_at": 0.0, "end_at": 0.5}, 10, range(0, 5)),
        ({"start_at": 0.5}, 10, range(5, 10)),
        ({"start_step": 2, "end_step": 5}, 8, range(2, 5)),
        ({"start_step": 3}, 6, range(3, 6)),
        ({"start_at": 0.5, "end_step": 8}, 10, range(5, 8)),
        ({"end_at": 0.01}, 8, range(0, 1)),
        ({"start_at": 0.2, "end_at": 0.5}, 3, range(1, 2)),
        ({"end_at": 0.1}, 4, range(0, 1)),
    ],
    ids=str,
)
def test_window(pulid, window, steps, expected):
    model = apply(small_flux(depth=1, depth_single=1), pulid, person(1), **window)
    assert open_steps(model, steps=steps) == list(expected)


def test_window_follows_the_sampling_settings_placed_after_apply(pulid):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    model = apply(small_flux(depth=1, depth_single=1), pulid, person(1), start_at=0.25)
    shifted = ModelSamplingFlux().patch(model, 3.0, 0.5, 1024, 1024)[0]
    # the scheduler's sigmas shift too: only with the same settings does 3/12 stay step 3
    assert open_steps(shifted, steps=12) == list(range(3, 12))


def test_window_in_a_second_sampler_and_with_less_denoise(pulid):
    model = apply(small_flux(depth=1, depth_single=1), pulid, person(1), start_at=0.2)
    assert open_steps(model, steps=8, denoise=0.5) == list(range(8))


@pytest.mark.parametrize("curve", ["linear in", "linear out", "ease in", "ease out", "ease in-out"])
def test_weight_curve(flux, pulid, curve):
    curved = sample(apply(flux, pulid, person(1), weight_curve=curve))
    assert not torch.equal(curved, sample(apply(flux, pulid, person(1))))
    assert not torch.equal(curved, sample(flux))


def test_double_and_single_weights_share_the_effect(flux, pulid):
    only_double = sample(apply(flux, pulid, person(1), single_weight=0.0))
    only_single = sample(apply(flux, pulid, person(1), double_weight=0.0))
    both = sample(apply(flux, pulid, person(1)))
    assert len({t.sum().item() for t in (only_double, only_single, both, sample(flux))}) == 4


def block_input(model, **settings) -> torch.Tensor:
    """Return the image tokens that enter double block 1 in the first step."""
    seen = []
    block = model.model.diffusion_model.double_blocks[1]
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["img"].clone()), with_kwargs=True
    )
    sample(model, steps=1, **settings)
    handle.remove()
    return seen[0]


def test_disjoint_masks_keep_identities_apart(flux, pulid):
    """In a block, tokens of one region do not depend on the other region's identity."""

    def two(second):
        left = apply(flux, pulid, person(1), attn_mask=half_mask("left"))
        return apply(left, pulid, person(second), attn_mask=half_mask("right"))

    with_2, with_3, plain = (block_input(m) for m in (two(2), two(3), flux))
    columns = torch.arange(LATENT[0] * LATENT[1] // 4) % (LATENT[1] // 2)
    left, right = columns < 2, columns > 2
    assert torch.equal(with_2[:, left], with_3[:, left])
    assert not torch.equal(with_2[:, left], plain[:, left])
    assert not torch.equal(with_2[:, right], with_3[:, right])


def test_soft_masks_are_soft(flux, pulid):
    plain, full = block_input(flux), block_input(apply(flux, pulid, person(1)))
    half = block_input(apply(flux, pulid, person(1), attn_mask=torch.full((1, 20, 20), 0.5)))
    torch.testing.assert_close(half - plain, (full - plain) / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 10), (13, 11), (7, 22)])
@pytest.mark.parametrize("mask", [(1, 5, 5), (2, 96, 80), (3, 64, 64), (1, 300, 20)])
def test_masks_of_any_size_and_batch(flux, pulid, size, mask):
    model = apply(flux, pulid, person(1), attn_mask=torch.rand(mask))
    assert torch.isfinite(sample(model, size=size, batch=2, cfg=3.0, steps=1)).all()


def run_masks(model, **settings) -> list[torch.Tensor]:
    """Return the masks, by token, that a run has used."""
    runs = []

    def keep(executor, *args, **kwargs):
        runs.append(args[2]["model_options"]["transformer_options"]["pulid_flux"])
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("sampler_sample", "a test", keep)
    sample(model, **settings)
    return list(runs[0].masks.values())


def test_a_prompt_for_an_area_gets_the_mask_of_that_area(flux, pulid):
    """ConditioningSetArea runs FLUX on a part of the picture: the mask is cut, not squeezed."""
    model = apply(flux, pulid, person(1), attn_mask=half_mask("left"))
    height, width = LATENT[0], 4  # the left 4 of 10 columns: all inside the left half
    left = run_masks(model.clone(), positive=cond(1, area=(height, width, 0, 0)), steps=1)
    assert [m.shape for m in left] == [(1, height * width // 4, 1)] and left[0].min() == 1
    right = run_masks(model.clone(), positive=cond(1, area=(height, width, 0, 6)), steps=1)
    assert right[0].max() == 0


def test_each_picture_of_a_batch_has_its_mask(flux, pulid):
    """Three masks for two pictures: each picture takes its own, on both sides of true CFG."""
    masks = torch.stack([torch.full((8, 8), v) for v in (0.25, 0.5, 0.75)])
    model = apply(flux, pulid, person(1), attn_mask=masks)
    for mask in run_masks(model, batch=2, cfg=3.0, steps=1):
        assert torch.equal(mask[:, 0, 0], torch.tensor([0.25, 0.5]))


@pytest.mark.parametrize("method", ["offset", "index", "uxo"])
@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize("mask", [None, torch.rand(1, 24, 20)])
def test_kontext_references_are_never_touched(flux, pulid, method, references, mask):
    latents = [torch.randn(1, 16, 8, 6 + 2 * i) for i in range(references)]
    positive = cond(1, reference_latents=latents, reference_latents_method=method)
    model = apply(flux, pulid, person(1), attn_mask=mask)
    with_identity, plain = (block_input(m, positive=positive) for m in (model, flux))
    own = LATENT[0] * LATENT[1] // 4
    assert plain.shape[1] == own + sum(r.shape[2] * r.shape[3] // 4 for r in latents)
    # double block 0 mixes nothing before the identity is added, so only own tokens may differ
    assert torch.equal(with_identity[:, own:], plain[:, own:])
    changed = (with_identity[:, :own] != plain[:, :own]).any(-1)
    assert changed.all() or mask is not None and changed.any()


def test_single_blocks_leave_text_and_references_alone(flux, pulid):
    """The residual of a single block touches the picture's own tokens only."""
    model = apply(flux, pulid, person(1), double_weight=0.0)
    seen = {}

    def leaves_block_0(_, args, out):
        seen["out"] = out.clone()

    def enters_block_1(_, args):
        seen["in"] = args[0].clone()

    blocks = model.model.diffusion_model.single_blocks
    handles = [
        blocks[0].register_forward_hook(leaves_block_0),
        blocks[1].register_forward_pre_hook(enters_block_1),
    ]
    reference = torch.randn(1, 16, 8, 8)
    sample(model, steps=1, positive=cond(1, reference_latents=[reference]))
    for handle in handles:
        handle.remove()
    own = LATENT[0] * LATENT[1] // 4
    changed = (seen["out"] != seen["in"]).any(-1)[0]
    expected = torch.zeros_like(changed)
    expected[8 : 8 + own] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [None, torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_hook_computes_in_the_models_dtype(pulid, dtype, weights):
    flux = small_flux(dtype=dtype, weight_dtype=weights, depth=3, depth_single=5)
    model = apply(flux, pulid, person(1))
    seen = []
    for layers in identity_layers(model):
        for layer in layers.layers:
            layer.register_forward_hook(lambda _, args, out: seen.extend((*args[:3], out)))
    picture = sample(model, steps=2)
    assert torch.isfinite(picture).all()
    assert seen and all(tensor.dtype == dtype for tensor in seen)
    assert all(layer.scores.weight.dtype == dtype for layer in identity_layers(model)[0].layers)


def test_what_sampling_needs_on_the_device(flux, pulid):
    model = apply(flux, pulid, person(1), unconditional="none")
    required = model.get_nested_additional_models()
    assert [p.model for p in required] == identity_layers(model)
    assert pulid.id_encoder.patcher not in required


def test_one_folded_identity_is_small():
    """At FLUX's true width and 16 bit: at most 0.16 of the layers it replaces (two of them)."""
    shapes = cross_attention_shapes(3072, 2048, 2)
    for i in range(2):
        shapes[f"pulid_ca.{i}.to_q.weight"] = (2048, 3072)
        shapes[f"pulid_ca.{i}.to_kv.weight"] = (4096, 2048)
        shapes[f"pulid_ca.{i}.to_out.weight"] = (3072, 2048)
    weights = random_weights(shapes | encoder_shapes(64, 2048, 128, 576), torch.Generator())
    pulid = from_state_dict({k: v.bfloat16() for k, v in weights.items()}, "true width")
    cpu, blocks = torch.device("cpu"), tuple(block_layers(1, 1))
    (folded,) = fold(
        pulid,
        [torch.randn(1, 32, 2048)],
        FluxModel(
            width=3072,
            patch_size=2,
            blocks=blocks,
            dtype=torch.bfloat16,
            load_device=cpu,
            offload_device=cpu,
            dynamic=False,
        ),
    )
    replaced = sum(p.nbytes for layer in pulid.layers for p in layer.parameters())
    assert folded.patcher.model_size() <= 0.155 * replaced


def test_no_text_vector_and_no_guidance(pulid):
    flux = small_flux(guidance=False)
    text = cond(1)[0][0]
    without_guidance = [[text, {"pooled_output": None, "guidance": None}]]
    model = apply(small_flux(), pulid, person(1))
    assert torch.isfinite(sample(model, positive=without_guidance)).all()
    try:
        flux.model.encode_adm()
    except KeyError:
        pytest.skip("this ComfyUI's FLUX does not run without a text vector (from 0.20)")
    model = apply(flux, pulid, person(1))
    bare = [[text, {}]]
    assert torch.isfinite(sample(model, positive=bare, negative=bare)).all()


@pytest.mark.parametrize(("doubles", "singles"), [(8, 38), (19, 10), (5, 7), (1, 1)])
@pytest.mark.parametrize("double_layers", [10, 12])
def test_in_pruned_models_blocks_take_the_layers_of_their_kind(doubles, singles, double_layers):
    """The authors' files have 10 + 10 layers; another file may say how many are for doubles."""
    if double_layers == 12 and singles > 32:
        singles = 32  # as many as its eight other layers are for
    metadata = None if double_layers == 10 else {"double_layers": str(double_layers)}
    pulid = small_pulid(metadata=metadata)
    model = apply(small_flux(depth=doubles, depth_single=singles), pulid, person(1))
    own = [*range(-(-doubles // 2)), *(double_layers + i for i in range(-(-singles // 4)))]
    (used, _) = hooks_of(model).shared
    cpu = torch.device("cpu")
    for layer, number in zip(used.prepared.patcher.model.layers, own, strict=True):
        a, _, values = FoldingLayer(pulid.layers[number], cpu).fold(person(1).id_tokens)
        assert torch.equal(layer.scores.weight, a) and torch.equal(layer.values.weight, values)
    called = []
    for number, layer in enumerate(used.prepared.patcher.model.layers):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    sample(model, steps=1)
    assert called == list(range(len(own)))


def test_single_blocks_beyond_the_files_layers_are_refused(pulid):
    with pytest.raises(ValueError, match=r"asks for 10 \+ 11 identity layers.*has 20 in all"):
        apply(small_flux(depth=19, depth_single=41), pulid, person(1))
    with pytest.raises(ValueError, match=r"asks for 11 \+ 1 identity layers"):
        apply(small_flux(depth=21, depth_single=1), pulid, person(1))


def test_fill(pulid):
    flux = small_flux(in_channels=384)
    model = apply(flux, pulid, person(1))
    mask = {
        "concat_latent_image": torch.randn(1, 16, *LATENT),
        "concat_mask": torch.ones(1, 1, 96, 80),
    }
    positive = cond(1, **mask)
    assert not torch.equal(sample(model, positive=positive), sample(flux, positive=positive))


class ForeignPatch:
    """Another pack's block replacement: it calls the block and marks the image."""

    def __call__(self, args, extra):
        out = extra["original_block"](args)
        return {**out, "img": out["img"] * 1.01}


@pytest.mark.parametrize("order", ["before", "after"])
def test_foreign_block_patches_stay(flux, pulid, order):
    def foreign(model):
        model = model.clone()
        model.set_model_patch_replace(ForeignPatch(), "dit", "double_block", 0)
        return model

    if order == "before":
        both = apply(foreign(flux), pulid, person(1))
    else:
        both = foreign(apply(flux, pulid, person(1)))
    pictures = [sample(m) for m in (flux, foreign(flux), apply(flux, pulid, person(1)), both)]
    assert len({p.sum().item() for p in pictures}) == 4


def test_lora_before_and_after(flux, pulid):
    key = "diffusion_model.double_blocks.0.img_attn.proj.weight"
    change = {key: (torch.randn(128, 128) * 0.05,)}

    def lora(model):
        model = model.clone()
        model.add_patches(change, 1.0)
        return model

    before = sample(apply(lora(flux), pulid, person(1)))
    after = sample(lora(apply(flux, pulid, person(1))))
    assert torch.equal(before, after)
    assert not torch.equal(before, sample(apply(flux, pulid, person(1))))


def test_a_replaced_forward_is_named(flux, pulid):
    """A pack that copies FLUX's forward ignores block patches: no picture without identity."""
    from comfy.ldm.flux.model import Flux

    class Copied(Flux):
        def forward_orig(self, img, img_ids, txt, *args, **kwargs):
            return torch.zeros(*img.shape[:2], 64)

    class NoExtras(Flux):
        def forward(
            self, x, timestep, context, y, guidance, ref_latents, control, transformer_options
        ):
            return x

    for kind in (Copied, NoExtras):
        model = apply(small_flux(depth=1, depth_single=1), pulid, person(1))
        model.model.diffusion_model.__class__ = kind
        done = []
        with pytest.raises(RuntimeError, match="no FLUX block") as error:
            sample(model, steps=8, callback=lambda i, *_, done=done: done.append(i))
        # after the first forwards that cannot have worked, not after the last step
        assert str(error.value) == NOT_INSERTED.format(forwards=2 if kind is Copied else 1)
        assert len(done) == (1 if kind is Copied else 0)
        with pytest.raises(RuntimeError, match="no FLUX block"):  # at the end of a shorter run
            sample(model, steps=1)


def test_interrupt_leaves_nothing_behind(flux, pulid):
    model = apply(flux, pulid, person(1))
    before, plain = sample(model), sample(flux)

    def stop(i, *_):
        if i == 1:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(model, callback=stop)
    assert torch.equal(sample(flux), plain)
    assert torch.equal(sample(model), before)


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_caches_of_the_host(flux, pulid, cache):
    from comfy_extras import nodes_easycache

    node = getattr(nodes_easycache, f"{cache}Node")
    model = apply(flux, pulid, person(1))
    cached = node.execute(model, 0.2, 0.15, 0.95, False)[0]
    picture = sample(cached, steps=8)
    assert torch.isfinite(picture).all()
    assert not torch.equal(picture, sample(node.execute(flux, 0.2, 0.15, 0.95, False)[0], steps=8))


@pytest.mark.parametrize(("name", "may"), [("easycache", True), ("another pack's", False)])
def test_only_caches_of_the_host_may_skip_several_steps_at_first(flux, pulid, name, may):
    left = [None] * 3  # steps that it answers itself

    def skip(executor, x, *args, **kwargs):
        if left:
            left.pop()
            return x
        return executor(x, *args, **kwargs)

    model = apply(flux, pulid, person(1))
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, name, skip)
    with nullcontext() if may else pytest.raises(RuntimeError, match="no FLUX block"):
        assert torch.isfinite(sample(model, steps=5)).all()
    assert len(left) == (0 if may else 1)


@multigpu
def test_deepclone_for_another_gpu_has_its_own_layers(flux, pulid):
    model = apply(flux, pulid, person(1))
    (folded, *_) = model.get_additional_models_with_key("pulid_flux")
    twin = folded.deepclone_multigpu(torch.device("cpu"))
    assert twin.model is not folded.model and twin.model.key == folded.model.key
    weights = zip(twin.model.parameters(), folded.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@multigpu
def test_each_gpu_of_a_multi_gpu_run_uses_its_own_layers(pulid, tmp_path):
    """As comfy.multigpu does it: a deep clone for a device, matched again before each run."""
    path = tmp_path / "flux.safetensors"
    write_flux(path, depth=1, depth_single=1, dtype=torch.float32)
    model = apply(comfy.sd.load_diffusion_model(str(path)), pulid, person(1))
    cpu = torch.device("cpu")
    clone = model.deepclone_multigpu(cpu)
    clone.is_multigpu_base_clone = True
    model.set_additional_models("multigpu", [clone])
    second = apply(model, pulid, person(2), weight=0.5)
    second.match_multigpu_clones()
    (matched,) = second.get_additional_models_with_key("multigpu")
    hooks = hooks_of(second)
    used = {}
    for name, patcher in (("first", second), ("other", matched)):
        patcher.model.current_patcher = patcher
        used[name] = hooks.modules(patcher.model)
        own = [p.model for p in patcher.get_additional_models_with_key("pulid_flux")]
        assert not any(weight.requires_grad for one in own for weight in one.parameters())
        assert all(any(module is o for o in own) for module in used[name].values())
    assert used["first"].keys() == used["other"].keys() == {u.prepared.key for u in hooks.shared}
    for key, module in used["first"].items():
        assert module is not used["other"][key]
        for a, b in zip(module.parameters(), used["other"][key].parameters(), strict=True):
            assert torch.equal(a, b)


def test_differential_diffusion(flux, pulid):
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    mask = torch.linspace(0, 1, 80).expand(1, 1, 96, 80)
    settings = {"steps": 4, "noise_mask": mask}
    model = DifferentialDiffusion.execute(apply(flux, pulid, person(1)))[0]
    plain = DifferentialDiffusion.execute(flux)[0]
    found = sample(model, **settings)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, sample(plain, **settings))


def test_redux_lengthens_the_text(flux, pulid):
    """An image prompt is appended to the text tokens; the picture's own tokens are still found."""
    text, more = cond(1)[0]
    longer = [[torch.cat((text, torch.randn(1, 29, text.shape[-1])), 1), more]]
    model = apply(flux, pulid, person(1), double_weight=0.0)
    calls = watch(model, layer=3)  # the first of the single blocks
    sample(model, positive=longer, steps=1)
    assert calls and all(shape[1] == LATENT[0] * LATENT[1] // 4 for _, shape in calls)


def test_a_guider_that_orders_its_prompts_otherwise(flux, pulid):
    """DualCFGGuider runs the negative prompt first: rows are told by whose prompt they are."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    model = apply(flux, pulid, person(1))
    calls = watch(model)
    guider = DualCFGGuider.execute(model, cond(1), cond(3), cond(2), 3.0, 2.0, "regular")[0]
    latent = torch.zeros(1, 16, *LATENT)
    sampler = comfy.samplers.ksampler("euler")
    guider.sample(torch.randn_like(latent), latent, sampler, torch.tensor([1.0, 0.0]))
    rows = {kind: sum(s[0] for k, s in calls if k == kind) for kind in ("cond", "uncond")}
    assert rows == {"cond": 2, "uncond": 1}


def test_state_of_random_generators_is_untouched(flux, pulid):
    before = torch.get_rng_state()
    apply(flux, pulid, person(1))
    assert torch.equal(torch.get_rng_state(), before)


# What a run needs, and what is folded


def prepared(model, cfg: float, **more) -> list:
    """Sample once and return what ComfyUI's own prepare_sampling asked to be loaded."""
    wanted = []

    def prepare(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        wanted.extend(out[2])
        return out

    model = model.clone()
    model.add_wrapper_with_key("prepare_sampling", "a test", prepare)
    sample(model, cfg=cfg, steps=1, **more)
    return wanted


def test_at_cfg_1_only_the_positive_prompts_layers_are_needed(flux, pulid):
    model = apply(flux, pulid, person(1))
    both = [p.model.key for p in model.get_additional_models_with_key("pulid_flux")]
    (positive,) = [u.prepared.key for u in hooks_of(model).shared if u.positive]
    assert len(both) == 2
    assert [p.model.key for p in prepared(model, cfg=1.0)] == [positive]
    assert [p.model.key for p in prepared(model, cfg=3.0)] == both
    # the model itself is as before, also for the next run
    assert [p.model.key for p in model.get_additional_models_with_key("pulid_flux")] == both


def test_a_patch_that_asks_for_the_negative_prompt_at_cfg_1_gets_its_layers(flux, pulid):
    model = apply(flux, pulid, person(1))
    model.set_model_sampler_cfg_function(lambda args: args["cond"], disable_cfg1_optimization=True)
    assert len(prepared(model, cfg=1.0)) == 2


def test_an_interrupted_run_gives_the_layers_back(flux, pulid):
    model = apply(flux, pulid, person(1))

    def stop(*_):
        comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(model, callback=stop)
    assert len(model.get_additional_models_with_key("pulid_flux")) == 2


def test_other_weights_windows_and_masks_fold_nothing(flux, monkeypatch):
    """Three people and a zero identity: four folds, each of 6 layers visited once for a new set."""
    pulid, visits = small_pulid(seed=5), []
    folding = importlib.import_module("pulid_pack.pulid_flux.folding")

    class Counted(folding.FoldingLayer):
        def __init__(self, layer, device):
            visits.append("layer")
            super().__init__(layer, device)

        def fold(self, id_tokens):
            visits.append("fold")
            return super().fold(id_tokens)

    monkeypatch.setattr(folding, "FoldingLayer", Counted)

    def three(**settings):
        model = flux
        for seed in (1, 2, 3):
            model = apply(model, pulid, person(seed), **settings)
        return Counter(visits)

    assert three() == {"layer": 18, "fold": 24}  # the first Apply folds two sets in one visit
    for settings in (
        {"weight": 0.3},
        {"start_at": 0.2, "end_step": 9},
        {"attn_mask": half_mask("left")},
        {"weight_curve": "ease in", "double_weight": 0.5},
        {"unconditional": "same identity"},
    ):
        assert three(**settings) == {"layer": 18, "fold": 24}, settings
    same_tokens = Identity(person(2).id_tokens.clone(), person(2).uncond_id_tokens.clone())
    apply(flux, pulid, same_tokens)
    assert Counter(visits) == {"layer": 18, "fold": 24}
    apply(small_flux(dtype=torch.bfloat16, depth=5, depth_single=9), pulid, person(1))
    assert Counter(visits) == {"layer": 24, "fold": 36}


def test_room_is_made_for_a_fold(flux, monkeypatch):
    """Four times a layer in float32: what folding one needs on the device."""
    asked = []
    make_room = comfy.model_management.free_memory
    monkeypatch.setattr(
        comfy.model_management, "free_memory", lambda n, *a: asked.append(n) or make_room(n, *a)
    )
    pulid = small_pulid(seed=8)
    apply(flux, pulid, person(1))
    assert 4 * 4 * sum(p.numel() for p in pulid.layers[0].parameters()) in asked


def test_folds_go_with_the_loaded_file(flux):
    pulid = small_pulid(seed=6)
    model = apply(flux, pulid, person(1))
    alive = [weakref.ref(used.prepared.patcher.model) for used in hooks_of(model).shared]
    del model, pulid
    gc.collect()
    assert [a() for a in alive] == [None, None]


def test_a_loaded_file_remembers_a_few_folds_only(flux):
    pulid = small_pulid(seed=7)
    for seed in range(9):
        apply(flux, pulid, person(seed))
    assert len(pulid.folds) == 4


# Rows


def tiled(executor, x, t, *args, **kwargs):
    """The way of TiledDiffusion: the whole batch, tile after tile, in one call."""
    halves = [x[..., :6], x[..., 4:]]
    twice = {k: torch.cat([v] * 2) if torch.is_tensor(v) else v for k, v in kwargs.items()}
    out = executor(torch.cat(halves), torch.cat([t] * 2), *args, **twice)
    left, right = out.chunk(2)
    return torch.cat((left[..., :5], right[..., 1:]), -1)


def test_tiles_in_one_call_get_the_same_as_tiles_one_by_one(flux, pulid):
    """Rows are u c u c: divided in the middle, each half would get the other's identity."""

    def one_by_one(executor, x, t, *args, **kwargs):
        left, right = (executor(part, t, *args, **kwargs) for part in (x[..., :6], x[..., 4:]))
        return torch.cat((left[..., :5], right[..., 1:]), -1)

    pictures = []
    for tiles in (tiled, one_by_one):
        model = apply(flux, pulid, person(1))
        model.set_model_unet_function_wrapper(
            lambda run, args, tiles=tiles: tiles(run, args["input"], args["timestep"], **args["c"])
        )
        pictures.append(sample(model, cfg=3.0, steps=2))
    torch.testing.assert_close(*pictures, rtol=1e-4, atol=1e-4)


def test_gains_are_on_the_device_and_no_numbers(flux, pulid):
    """torch.compile's CUDA graphs take no scalar of the CPU, and a number compiles anew."""
    hooks = hooks_of(apply(flux, pulid, person(1), weight=0.3))
    card = SimpleNamespace(current_patcher=None)
    run = start_run(hooks.uses, lambda fraction: 1 - fraction, [1.0, 0.0])
    with FakeTensorMode():
        x = torch.empty(1, 16, *LATENT, device="cuda")
        forward = hooks.start_forward(run, x, {"sigmas": torch.tensor([1.0])}, card)
        ((_, (acting,)),) = forward.rows
        for gain in (acting.double, acting.single):
            assert (gain.device.type, gain.shape, gain.dtype) == ("cuda", (), torch.float32)


def test_an_identity_whose_window_held_no_step_is_told(flux, pulid, caplog):
    """Two runs share the steps: the second begins after the window has closed."""
    model = apply(apply(flux, pulid, person(1)), pulid, person(2), end_at=0.1)
    sample(model, denoise=0.4)
    (record,) = [r for r in caplog.records if "did not act" in r.message]
    assert "identity 2 of 2" in record.message
