"""Identity in SDXL through the host's sampler, beside other nodes and on the right rows."""

from __future__ import annotations

from functools import partial

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.rows import UNKNOWN_ROWS
from pulid_pack.nodes.sdxl import PuLIDSDXLApplyIdentity
from pulid_pack.pulid_sdxl.hooks import KEY, NOT_INSERTED
from pulid_pack.pulid_sdxl.unet import attention_layers
from standins.sdxl import (
    golden_input,
    sample,
    someone,
    text,
    tiny_controlnet,
    tiny_pulid,
    tiny_sdxl,
)
from standins.sdxl_packs import Tiled, coupled


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 5e-4) -> None:
    """Compare latents; sums in another order are amplified by cfg and a random UNet."""
    size = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= tolerance * size, (found - expected).abs().max()


@pytest.fixture(scope="module")
def sdxl():
    with torch.inference_mode():
        return tiny_sdxl()


@pytest.fixture(scope="module")
def pulid():
    with torch.inference_mode():
        return tiny_pulid()


def apply(model, pulid, identity, weight=0.8, start_at=0.0, end_at=1.0, method="fidelity", **more):
    settings = (method, weight, start_at, end_at)
    return PuLIDSDXLApplyIdentity.execute(model, pulid, identity, *settings, **more)[0]


class Reference:
    """The authors' processors at the host's own seam, for the rows in the host's common order."""

    def __init__(self, pulid, identity, weight=0.8, zeros=8, projection="ortho_v2", negative=True):
        self.pulid, self.identity = pulid, identity
        self.settings = (zeros, projection, weight)
        self.negative = negative

    def __call__(self, model):
        patched = model.clone()
        keys = [layer.key for layer in attention_layers(model.model.diffusion_model)]
        for layer, key in zip(self.pulid.layers, keys, strict=True):
            patched.set_model_attn2_replace(self.at(layer), *key[:2], key[2])
        return patched

    def at(self, layer):
        def attend(q, k, v, extra):
            out = optimized_attention(q, k, v, extra["n_heads"])
            chunks = extra["cond_or_uncond"]
            tokens = [
                self.identity.uncond_id_tokens if chunk == 1 else self.identity.id_tokens
                for chunk in chunks
                for _ in range(len(q) // len(chunks))
            ]
            full = layer(q, out, torch.cat(tokens), extra["n_heads"], *self.settings)
            if self.negative:
                return full
            keep = [chunk == 1 for chunk in chunks for _ in range(len(q) // len(chunks))]
            return torch.where(torch.tensor(keep)[:, None, None], out, full)

        return attend


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("method", ["fidelity", "style", "neutral"])
def test_a_run_is_the_authors_processors(sdxl, pulid, batch, cfg, method):
    zeros, projection = {"fidelity": (8, "ortho_v2"), "style": (16, "ortho")}.get(
        method, (0, "none")
    )
    expected = Reference(pulid, someone(1), 0.8, zeros, projection)(sdxl)
    found = apply(sdxl, pulid, someone(1), method=method)
    settings = {"cfg": cfg, "batch": batch}
    near(sample(found, **settings), sample(expected, **settings))


def test_what_negative_rows_get(sdxl, pulid):
    one = someone(1)
    same = Reference(pulid, Identity(one.id_tokens, one.id_tokens, one.family))
    none = Reference(pulid, one, negative=False)
    for choice, reference in (("same identity", same), ("none", none)):
        found = sample(apply(sdxl, pulid, one, unconditional=choice), cfg=5.0)
        near(found, sample(reference(sdxl), cfg=5.0))


@pytest.mark.parametrize(
    "setting",
    [
        {"weight": 0.0},
        {"start_at": 0.5, "end_at": 0.5},
        {"start_step": 1, "end_step": 1},
        {"attn_mask": torch.zeros(1, 16, 24)},
    ],
)
def test_nothing_is_bit_identical(sdxl, pulid, setting):
    assert torch.equal(sample(apply(sdxl, pulid, someone(1), **setting)), sample(sdxl))


def test_a_mask_of_ones_is_no_mask(sdxl, pulid):
    found = sample(apply(sdxl, pulid, someone(1), attn_mask=torch.ones(1, 8, 8)))
    assert torch.equal(found, sample(apply(sdxl, pulid, someone(1))))


def test_model_and_other_branches_are_never_changed(sdxl, pulid):
    before = sample(sdxl)
    first = apply(sdxl, pulid, someone(1))
    picture = sample(first)
    second = apply(sdxl, pulid, someone(2))
    both = apply(first, pulid, someone(2))
    pictures = [sample(second), sample(both)]
    assert torch.equal(sample(first), picture) and torch.equal(sample(sdxl), before)
    assert not any(torch.allclose(picture, other, atol=0.05) for other in pictures)


def test_order_does_not_matter_and_weights_add_up(sdxl, pulid):
    a, b = someone(1), someone(2)
    ab = sample(apply(apply(sdxl, pulid, a), pulid, b, method="style"))
    ba = sample(apply(apply(sdxl, pulid, b, method="style"), pulid, a))
    near(ab, ba)
    halves = apply(apply(sdxl, pulid, a, weight=0.3), pulid, a, weight=0.5)
    near(sample(halves), sample(apply(sdxl, pulid, a)))
    assert len(halves.get_additional_models_with_key(KEY)) == 2  # for each kind of rows


def test_the_window_goes_by_steps(sdxl, pulid):
    """Until the window opens the run is the base's, and from there on it is the identity's."""
    seen: dict[str, list] = {"base": [], "late": []}

    def keep(name):
        return lambda step, denoised, *_: seen[name].append(denoised.clone())

    sample(sdxl, steps=4, callback=keep("base"))
    sample(apply(sdxl, pulid, someone(1), start_at=0.5), steps=4, callback=keep("late"))
    same = [torch.equal(a, b) for a, b in zip(seen["base"], seen["late"], strict=True)]
    assert same == [True, True, False, False]


# Masks


@pytest.mark.parametrize("side", ["left", "bottom"])
def test_a_mask_multiplies_what_is_added(sdxl, pulid, side):
    """Its edge lies between tokens of the coarsest grid, so that each token is in or out."""
    mask = torch.zeros(1, 16, 24)
    (mask[..., :12] if side == "left" else mask[:, 8:]).fill_(1)
    base = Reference(pulid, someone(1))

    class Masked(Reference):
        def at(self, layer):
            def attend(q, k, v, extra):
                out = optimized_attention(q, k, v, extra["n_heads"])
                full = base.at(layer)(q, k, v, extra)
                rows, columns = extra["activations_shape"][-2:]
                inside = torch.zeros(rows, columns, dtype=torch.bool)
                half = inside[:, : columns // 2] if side == "left" else inside[rows // 2 :]
                half.fill_(True)
                return torch.where(inside.flatten()[:, None], full, out)

            return attend

    found = sample(apply(sdxl, pulid, someone(1), attn_mask=mask), cfg=3.0)
    expected = sample(Masked(pulid, someone(1))(sdxl), cfg=3.0)
    near(found, expected)


@pytest.mark.parametrize("size", [(22, 13), (16, 24), (9, 7)])
def test_masks_that_share_the_picture_share_the_identity(sdxl, pulid, size):
    """A mask and its opposite, on any grid, are the identity without a mask."""
    mask = golden_input("mask", (1, 40, 30)).sigmoid()
    both = apply(
        apply(sdxl, pulid, someone(1), attn_mask=mask), pulid, someone(1), attn_mask=1 - mask
    )
    whole = sample(apply(sdxl, pulid, someone(1)), size=size)
    near(sample(both, size=size), whole, 1e-3)


def test_each_picture_of_a_batch_has_its_mask(sdxl, pulid):
    masks = torch.stack((torch.zeros(16, 24), torch.ones(16, 24)))
    found = sample(apply(sdxl, pulid, someone(1), attn_mask=masks), batch=2, cfg=3.0)
    plain = sample(sdxl, batch=2, cfg=3.0)
    whole = sample(apply(sdxl, pulid, someone(1)), batch=2, cfg=3.0)
    near(found, torch.stack((plain[0], whole[1])))


def test_one_mask_is_that_of_each_picture_of_a_batch(sdxl, pulid):
    mask = torch.linspace(0, 1, 24).expand(1, 16, 24)
    settings = {"batch": 2, "cfg": 3.0}
    found = sample(apply(sdxl, pulid, someone(1), attn_mask=mask), **settings)
    twice = apply(sdxl, pulid, someone(1), attn_mask=mask.repeat(2, 1, 1))
    assert torch.equal(found, sample(twice, **settings))
    assert not torch.allclose(found, sample(sdxl, **settings), atol=0.05)


def test_a_prompt_for_an_area_gets_the_mask_of_that_area(sdxl, pulid):
    """Identity on the left only; the prompts' areas are the halves, of which each is a call."""
    mask = torch.zeros(1, 16, 24)
    mask[..., :12] = 1

    def halves(second):
        return [
            [text(1)[0][0], text(1)[0][1] | {"area": (16, 12, 0, 0)}],
            [text(3)[0][0], text(3)[0][1] | {"area": (16, 12, 0, 12)}],
        ]

    positive = halves(3)
    found = sample(apply(sdxl, pulid, someone(1), attn_mask=mask), positive=positive)
    plain = sample(sdxl, positive=positive)
    whole = sample(apply(sdxl, pulid, someone(1)), positive=positive)
    near(found[..., 12:], plain[..., 12:])
    near(found[..., :12], whole[..., :12])


# Rows that other packs have changed


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_in_one_call_are_tiles_one_by_one(sdxl, pulid, batch):
    pictures = []
    for at_once in (True, False):
        model = apply(sdxl, pulid, someone(1))
        model.set_model_unet_function_wrapper(Tiled(at_once))
        pictures.append(sample(model, cfg=5.0, batch=batch))
    near(*pictures)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(("batch", "parts"), [(1, 2), (2, 3)])
def test_attention_couple_of_equal_prompts_is_the_plain_run(sdxl, pulid, tells, batch, parts):
    settings = {"cfg": 5.0, "batch": batch}
    expected = sample(apply(sdxl, pulid, someone(1)), **settings)
    for model in (
        apply(coupled(sdxl, parts, tells), pulid, someone(1)),
        coupled(apply(sdxl, pulid, someone(1)), parts, tells),
    ):
        near(sample(model, **settings), expected)


def test_attention_couple_leaves_the_negative_prompt_alone_where_that_is_asked(sdxl, pulid):
    alone = partial(apply, pulid=pulid, identity=someone(1), unconditional="none")
    expected = sample(alone(sdxl), cfg=5.0)
    near(sample(alone(coupled(sdxl, 2, True)), cfg=5.0), expected)
    assert not torch.allclose(expected, sample(apply(sdxl, pulid, someone(1)), cfg=5.0), atol=0.05)


def test_rows_that_cannot_be_told_apart_are_an_error(sdxl, pulid):
    patched = sdxl.clone()
    patched.set_model_attn2_patch(lambda *qkv: tuple(x.repeat(3, 1, 1)[:5] for x in qkv[:3]))
    patched.set_model_attn2_output_patch(lambda out, extra: out[:4])
    with pytest.raises(RuntimeError) as error:
        sample(apply(patched, pulid, someone(1)), cfg=5.0, batch=2)
    assert str(error.value) == UNKNOWN_ROWS.format(found=5, total=4)


# Beside other nodes


class Adapter:
    """An object under an attn2 key, as IP-Adapter packs put it there; shared between clones."""

    def __init__(self):
        self.calls = []

    def add(self, *_):
        raise AssertionError("another pack's object was altered")

    def __call__(self, q, k, v, extra):
        self.calls.append(extra["block"])
        return optimized_attention(q, k, v, extra["n_heads"]) * 1.25


@pytest.mark.parametrize("two_part", [False, True])
def test_another_packs_attention_is_called_and_never_altered(sdxl, pulid, two_part):
    pictures, adapters = [], []
    for apply_first in (True, False):
        adapter = Adapter()
        adapters.append(adapter)
        model = apply(sdxl, pulid, someone(1)) if apply_first else sdxl.clone()
        for layer in attention_layers(sdxl.model.diffusion_model):
            block, number, index = layer.key
            model.set_model_attn2_replace(adapter, block, number, None if two_part else index)
        pictures.append(sample(model if apply_first else apply(model, pulid, someone(1)), cfg=3.0))
    assert torch.equal(*pictures)
    assert [len(adapter.calls) for adapter in adapters] == [2 * 10, 2 * 10]
    assert not torch.allclose(
        pictures[0], sample(apply(sdxl, pulid, someone(1)), cfg=3.0), atol=0.05
    )


def lora(model):
    """Return the model with changed maps to q and from the attention, as LoRAs change them."""
    patched = model.clone()
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2"
    change = {
        f"{name}.{part}.weight": (golden_input(part, (64, 64)),) for part in ("to_q", "to_out.0")
    }
    assert set(patched.add_patches(change, 0.1)) == set(change)
    return patched


def other_nodes() -> dict:
    from comfy_extras import (
        nodes_easycache,
        nodes_freelunch,
        nodes_hypertile,
        nodes_model_downscale,
        nodes_pag,
        nodes_sag,
        nodes_tomesd,
    )

    shrink = (3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic")
    deep_shrink = nodes_model_downscale.PatchModelAddDownscale.execute
    return {
        "EasyCache": lambda m: nodes_easycache.EasyCacheNode.execute(m, 0.2, 0.15, 0.95, False)[0],
        "Deep Shrink": lambda m: deep_shrink(m, *shrink)[0],
        "LoRA": lora,
        "FreeU": lambda m: nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.9, 0.2)[0],
        "HyperTile": lambda m: nodes_hypertile.HyperTile.execute(m, 64, 2, 0, False)[0],
        "ToMe": lambda m: nodes_tomesd.TomePatchModel.execute(m, 0.3)[0],
        "PAG": lambda m: nodes_pag.PerturbedAttentionGuidance.execute(m, 3.0)[0],
        "SAG": lambda m: nodes_sag.SelfAttentionGuidance.execute(m, 0.5, 2.0)[0],
    }


@pytest.mark.parametrize(
    "name", ["EasyCache", "Deep Shrink", "LoRA", "FreeU", "HyperTile", "ToMe", "PAG", "SAG"]
)
def test_before_and_after_other_nodes_are_the_same(sdxl, pulid, name):
    node = other_nodes()[name]
    mask = torch.linspace(0, 1, 24).expand(1, 16, 24)
    settings = {"cfg": 3.0, "steps": 4 if name == "EasyCache" else 2}
    before = sample(apply(node(sdxl), pulid, someone(1), attn_mask=mask), **settings)
    after = sample(node(apply(sdxl, pulid, someone(1), attn_mask=mask)), **settings)
    assert torch.isfinite(before).all()
    near(before, after)
    assert not torch.allclose(before, sample(node(sdxl), **settings), atol=0.05)


def test_a_controlnet_steers_beside_the_identity(sdxl, pulid):
    """It has cross-attention of its own under the same block names, where no identity acts."""
    import nodes

    picture = golden_input("picture", (1, 128, 192, 3)).abs().clamp(max=1)
    prompts = nodes.ControlNetApplyAdvanced().apply_controlnet(
        text(1), text(2), tiny_controlnet(), picture, 0.5, 0.0, 1.0
    )
    steered = dict(zip(("positive", "negative"), prompts, strict=True))
    found = sample(apply(sdxl, pulid, someone(1)), cfg=3.0, **steered)
    near(found, sample(Reference(pulid, someone(1))(sdxl), cfg=3.0, **steered))
    for other in (
        sample(sdxl, cfg=3.0, **steered),
        sample(apply(sdxl, pulid, someone(1)), cfg=3.0),
    ):
        assert not torch.allclose(found, other, atol=0.05)
    assert torch.equal(
        sample(apply(sdxl, pulid, someone(1), 0.0), cfg=3.0, **steered),
        sample(sdxl, cfg=3.0, **steered),
    )


def test_the_negative_prompt_that_is_called_alone_is_known(sdxl, pulid):
    """Self-attention guidance calls it so, and the host names that call like a positive one."""
    seen = []
    model = apply(sdxl, pulid, someone(1))
    hooks = model.get_attachment(KEY)
    start = type(hooks).start_forward

    def watched(self, run, x, options, base):
        forward = start(self, run, x, options, base)
        seen.append((options["cond_or_uncond"], [r.unconditional for r, _ in forward.rows]))
        return forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(hooks), "start_forward", watched)
        sample(other_nodes()["SAG"](model), cfg=3.0, steps=1)
    assert ([1, 0], [True, False]) in seen and ([0], [True]) in seen


def test_a_text_of_zeros_gives_no_nan(sdxl, pulid):
    zeros = [[torch.zeros(1, 8, 64), {"pooled_output": torch.zeros(1, 32)}]]
    for method in ("fidelity", "style"):
        found = sample(apply(sdxl, pulid, someone(1), method=method), cfg=3.0, negative=zeros)
        assert torch.isfinite(found).all()


def test_a_replaced_forward_is_named(sdxl, pulid):
    model = apply(sdxl, pulid, someone(1))

    def copied(x, timesteps, context=None, y=None, control=None, transformer_options=None, **more):
        return torch.zeros_like(x)

    model.add_object_patch("diffusion_model.forward", copied)
    # after the second forward that cannot have worked, or at the end of a shorter run
    for steps, forwards in ((3, 2), (1, 1)):
        with pytest.raises(RuntimeError) as error:
            sample(model, steps=steps)
        assert str(error.value) == NOT_INSERTED.format(forwards=forwards)


def test_the_base_is_itself_after_an_interrupt(sdxl, pulid):
    before = sample(sdxl)

    def stop(*_):
        raise comfy.model_management.InterruptProcessingException()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(apply(sdxl, pulid, someone(1)), callback=stop)
    assert torch.equal(sample(sdxl), before)


def test_at_cfg_1_only_the_positive_prompts_tokens_are_needed(sdxl, pulid):
    model = apply(sdxl, pulid, someone(1))
    (positive,) = [u.prepared.key for u in model.get_attachment(KEY).shared if u.positive]
    loaded = []

    class Watch:
        def __call__(self, executor, *args, **kwargs):
            guider = executor.class_obj
            loaded.append(
                [m.model.key for m in guider.model_patcher.get_additional_models_with_key(KEY)]
            )
            return executor(*args, **kwargs)

    model.add_wrapper_with_key("outer_sample", "watch", Watch())
    sample(model, cfg=1.0)
    sample(model, cfg=3.0)
    assert loaded[0] == [positive] and len(loaded[1]) == 2
    assert len(model.get_additional_models_with_key(KEY)) == 2


def test_a_new_weight_window_mask_or_method_prepares_nothing(sdxl):
    pulid = tiny_pulid()
    apply(sdxl, pulid, someone(1))
    made = list(pulid.keys_values)
    assert [tuple(one.tokens.shape) for one in made] == [(1, 10, 64)] * 2
    for more in ({"weight": 0.5}, {"start_at": 0.2}, {"method": "style"}):
        apply(sdxl, pulid, someone(1), **more)
    apply(sdxl, pulid, someone(1), attn_mask=torch.rand(1, 8, 8))
    assert [one.key for one in pulid.keys_values] == [one.key for one in made]
    for seed in range(2, 8):
        apply(sdxl, pulid, someone(seed))
    assert len(pulid.keys_values) == 4
