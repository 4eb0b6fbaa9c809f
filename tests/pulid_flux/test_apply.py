"""Which models take an identity: every FLUX.1 and Chroma, and nothing that only looks like one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import comfy.ldm.flux.model
import comfy.model_base
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.apply import foreign_kind
from standins.flux import random_weights
from standins.lab import load_model, person, small_flux, small_pulid
from standins.shapes import shapes_of

SIZES = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": None,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 3,
    "depth_single_blocks": 5,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
OVIS = {"yak_mlp": True, "txt_norm": True}
LONGCAT = {"context_in_dim": 3584}
FLUX_2 = {
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "axes_dim": [32, 32, 32, 32],
    "mlp_ratio": 3.0,
    "theta": 2000,
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "txt_ids_dims": [3],
}


def loaded(**changes) -> ModelPatcher:
    """Return a small model of FLUX's class with these settings, as ComfyUI's loader detects it."""
    known = comfy.ldm.flux.model.FluxParams.__dataclass_fields__
    if unknown := changes.keys() - known.keys():
        pytest.skip(f"this ComfyUI's FLUX has no {sorted(unknown)}")
    sizes = {k: v for k, v in (SIZES | changes).items() if k in known}
    flux = comfy.ldm.flux.model.Flux
    shapes = shapes_of(flux, image_model="flux", dtype=torch.float32, **sizes)
    return load_model(random_weights(shapes, torch.Generator().manual_seed(1)), torch.float32)


def apply(model, pulid):
    return PuLIDFluxApplyIdentity.execute(model, pulid, person(1), 1.0, 0.0, 1.0)[0]


@pytest.mark.parametrize(
    ("changes", "name"), [(LONGCAT, "LongCat-Image"), (OVIS, "Ovis-Image")], ids=["longcat", "ovis"]
)
def test_other_models_of_fluxs_class_are_refused_by_name(changes, name):
    if name == "LongCat-Image" and not hasattr(comfy.model_base, "LongCatImage"):
        pytest.skip("this ComfyUI does not know LongCat-Image")
    with pytest.raises(ValueError, match=rf"cannot be applied to this model \({name}, Flux\)"):
        apply(loaded(**changes), small_pulid())


def test_flux_2_takes_a_file_trained_for_it_and_no_other():
    flux = loaded(**FLUX_2)
    with pytest.raises(ValueError, match=r"cannot be applied to FLUX\.2 with pulid 2, whose 20"):
        apply(flux, small_pulid())
    with pytest.raises(ValueError, match=r"cannot be applied to FLUX\.2"):
        apply(flux, small_pulid(256, layers=4))
    model = apply(flux, small_pulid(layers=4))  # 2 for its 3 double blocks, 2 for its 5 single
    pictures = [picture(m, (1, 128, 6, 5), 64) for m in (flux, model)]
    assert all(torch.isfinite(p).all() for p in pictures)
    assert not torch.allclose(*pictures)


def picture(model: ModelPatcher, shape: tuple[int, ...], text_width: int) -> torch.Tensor:
    """Sample two steps from fixed noise."""
    draw = torch.Generator().manual_seed(3)
    cond = [
        [torch.randn(1, 8, text_width, generator=draw), {"guidance": 3.5, "pooled_output": None}]
    ]
    noise = torch.randn(shape, generator=draw)
    latent = torch.zeros(shape)
    return comfy.sample.sample(
        model, noise, 2, 1.0, "euler", "simple", cond, cond, latent, disable_pbar=True, seed=1
    )


def radiance() -> ModelPatcher:
    """Return a small Chroma Radiance: pixels in patches of 16, no latent."""
    own = {
        "image_model": "chroma_radiance",
        "in_channels": 3,
        "out_channels": 3,
        "in_dim": 64,
        "out_dim": 128,
        "hidden_dim": 64,
        "n_layers": 1,
        "patch_size": 16,
        "nerf_hidden_size": 16,
        "nerf_mlp_ratio": 2,
        "nerf_depth": 1,
        "nerf_max_freqs": 4,
        "nerf_tile_size": 0,
        "nerf_final_head_type": "conv",
        "nerf_embedder_dtype": torch.float32,
        "use_x0": False,
        "use_sequential_txt_ids": False,
    }
    fields = comfy.ldm.chroma_radiance.model.ChromaRadianceParams.__dataclass_fields__
    sizes = {k: v for k, v in (SIZES | own).items() if k in (*fields, "image_model")}
    config = comfy.supported_models.ChromaRadiance(sizes)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.ChromaRadiance(config, device="cpu")
    net, draw = model.diffusion_model, torch.Generator().manual_seed(1)
    shapes = shapes_of(type(net), **config.unet_config)
    net.load_state_dict({k: 0.05 * torch.randn(v, generator=draw) for k, v in shapes.items()})
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


def test_chroma_radiance_takes_identity_on_its_patches_of_pixels():
    flux = radiance()
    model = apply(flux, small_pulid())
    shapes = []
    for layer in model.get_additional_models_with_key("pulid_flux")[0].model.layers:
        layer.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    with_identity = picture(model, (1, 3, 64, 48), 64)
    assert set(shapes) == {(1, 12, 128)} and len(shapes) == 2 * 4  # 4 x 3 patches
    assert not torch.allclose(with_identity, picture(flux, (1, 3, 64, 48), 64))


def test_flux_1_without_a_text_vector_is_no_other_model():
    assert apply(loaded(), small_pulid()).get_additional_models_with_key("pulid_flux")


def test_a_pack_s_own_subclass_of_flux_1_is_flux_1():
    model = small_flux(depth=1, depth_single=1)
    model.model.__class__ = type("FluxOfAPack", (comfy.model_base.Flux,), {})
    assert apply(model, small_pulid()).get_additional_models_with_key("pulid_flux")


def test_settings_that_an_older_host_does_not_have_name_no_other_model():
    model = small_flux(depth=1, depth_single=1)
    model.model.diffusion_model.params = SimpleNamespace()
    assert foreign_kind(model) is None


def test_a_file_may_say_how_many_layers_are_for_double_blocks():
    model = small_flux(depth=3, depth_single=1)  # two of them get identity
    enough, too_few = (dataclasses.replace(small_pulid(), double_layers=n) for n in (2, 1))
    assert apply(model, enough).get_additional_models_with_key("pulid_flux")
    with pytest.raises(ValueError, match=r"asks for 2 \+ 1 identity layers"):
        apply(model, too_few)
