"""The adapter: its state dict is the PuLID file, which sampling takes as it is."""

from __future__ import annotations

import os

import pytest
import torch
from pulid_pack.identity import id_mlp
from pulid_pack.identity.id_encoder import encode_joint, encode_zeros
from pulid_pack.identity.id_former import Sizes
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.window import Window
from pulid_pack.pulid_flux.apply import apply_identity
from pulid_pack.pulid_flux.checkpoint import load_pulid
from pulid_pack.pulid_flux.uses import FluxUse
from pulid_pack.pulid_sdxl import apply as sdxl_apply
from pulid_pack.pulid_sdxl.checkpoint import load_pulid_sdxl
from pulid_pack.pulid_sdxl.uses import SDXLUse
from pulid_pack.state_dicts import read_metadata
from pulid_pack.training import branch
from pulid_pack.training.adapter import FluxAdapter, new
from pulid_pack.training.adapter_files import load
from pulid_pack.training.samples import Conditions
from pulid_pack.training.trainable import trainable
from safetensors.torch import load_file, save_file
from standins import sdxl as sdxl_lab
from standins.lab import LATENT, cond, sample, small_flux
from standins.pulid import cross_attention_shapes, encoder_shapes
from standins.sdxl import tiny_sdxl
from standins.sdxl_files import converted, pulid_weights
from standins.training import ENCODER, noise, photos, random_adapter

DEPTHS = {"depth": 3, "depth_single": 5}
WEIGHT = 0.8
OTHER = Sizes(128, 64, 96, 10, 7, 3, 48, 20, 24, 40)
ABOUT = {"base_model": "FLUX.1-dev", "licence": "CC0", "note": "forty drawn people"}
SDXL_ENCODER = Sizes(64, 64, 64, 5, 6, 2, 64, 24, 16, 32)


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode, as training does."""


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode(False):
        return small_flux(**DEPTHS)


def person(pulid) -> Identity:
    """Encode the first of the photos as Encode does, with a loaded file."""
    id_cond, hidden = photos(1, pulid.id_encoder.patcher.model.sizes, torch.float32)
    with torch.inference_mode():
        hidden = tuple(hidden)
        tokens = encode_joint(pulid.id_encoder, id_cond[0], hidden)
        return Identity(tokens, encode_zeros(pulid.id_encoder, hidden), pulid.id_encoder.family)


@pytest.mark.parametrize(
    ("encoder", "heads"), [(ENCODER, 1), (OTHER, 3)], ids=["small", "every size another"]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_saved_file_draws_what_training_drew(flux, tmp_path, encoder, heads, steps):
    """Load PuLID Model, fold and Apply, sampled by the host, against the branch."""
    adapter = random_adapter(flux, encoder, heads)
    id_cond, hidden = photos(1, encoder, torch.float32)
    text, more = cond(1)[0]
    conditions = Conditions(text, more["pooled_output"], more["guidance"])
    start = torch.randn(1, 16, *LATENT, generator=torch.Generator().manual_seed(7))
    with trainable(flux) as base, torch.no_grad():
        identity = adapter.identity(adapter.tokens(id_cond, hidden), WEIGHT)
        prepared, sigmas = base.prepare(conditions, start), base.sigmas(steps)
        trained = branch.run(base, identity, start, prepared, sigmas, 1).latent
        plain = branch.run(
            base, adapter.identity(identity.layers[0].tokens, 0.0), start, prepared, sigmas, 1
        ).latent
        trained, plain = (flux.model.process_latent_out(x) for x in (trained, plain))
    adapter.save(tmp_path / "trained.safetensors", ABOUT)
    pulid = load_pulid(tmp_path / "trained.safetensors")
    with torch.inference_mode():
        use = FluxUse(pulid=pulid, identity=person(pulid), weight=WEIGHT, window=Window(0.0, 1.0))
        sampled = sample(apply_identity(flux, use), steps=steps)
        without = sample(flux, steps=steps)
    torch.testing.assert_close(trained, sampled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain, without, rtol=1e-5, atol=1e-5)
    assert (trained - plain).abs().max() > 1e-2


@pytest.mark.parametrize(("num_zero", "projection"), [(0, "none"), (8, "ortho_v2"), (16, "ortho")])
def test_the_saved_sdxl_file_draws_what_training_drew(tmp_path, num_zero, projection):
    model = tiny_sdxl()
    adapter = random_adapter(model, SDXL_ENCODER)
    adapter.num_zero, adapter.projection = num_zero, projection
    id_cond, hidden = photos(1, SDXL_ENCODER, torch.float32)
    text, more = sdxl_lab.text(1)[0]
    start = sdxl_lab.golden_input("noise", (1, 4, 16, 24))
    with trainable(model) as base, torch.no_grad():
        identity = adapter.identity(adapter.tokens(id_cond, hidden), WEIGHT)
        prepared = base.prepare(Conditions(text, more["pooled_output"]), start)
        sigmas = base.sigmas(2, "karras")
        trained = branch.run(base, identity, start, prepared, sigmas, 1).latent
    trained = model.model.process_latent_out(trained)
    adapter.save(tmp_path / "trained.safetensors", ABOUT)
    pulid = load_pulid_sdxl(tmp_path / "trained.safetensors")
    settings = {"num_zero": num_zero, "projection": projection, "window": Window(0.0, 1.0)}
    with torch.inference_mode():
        use = SDXLUse(pulid=pulid, identity=person(pulid), weight=WEIGHT, **settings)
        sampled = sdxl_lab.sample(sdxl_apply.apply_identity(model, use))
        without = sdxl_lab.sample(model)
    scale = sampled.abs().max()
    torch.testing.assert_close(trained / scale, sampled / scale, rtol=0, atol=1e-5)
    assert (sampled - without).abs().max() > 1e-2 * scale


def test_a_new_adapter_changes_nothing_and_learns(flux):
    """Its last matrices are zero, and the first gradient reaches them."""
    adapter = new(flux, ENCODER, 1)
    x, sigma = noise(1, 16, 4, 6).float(), torch.tensor([0.5])
    text, more = cond(1)[0]
    with trainable(flux) as base:
        prepared = base.prepare(Conditions(text, more["pooled_output"]), x)
        identity = adapter.identity(adapter.tokens(*photos(1, dtype=torch.float32)))
        out = base(x, sigma, prepared, identity)
        assert torch.equal(out, base(x, sigma, prepared))
        out.square().mean().backward()
    assert all(layer.to_out.weight.grad.any() for layer in adapter.layers)


def test_a_new_adapter_is_the_same_for_the_same_seed_and_leaves_the_random_state(flux):
    before = torch.random.get_rng_state()
    one, two, other = (new(flux, ENCODER, 1, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["pulid_encoder.latents"], other["pulid_encoder.latents"])


def test_a_new_adapter_has_the_released_files_layout():
    """For FLUX.1's depths: 10 + 10 layers, and the keys of pulid_flux_v0.9.1."""
    adapter = new(small_flux(), ENCODER, 2)
    assert (len(adapter.layers), adapter.double_layers) == (20, 10)
    wanted = {**cross_attention_shapes(128, 32, 20), **encoder_shapes(64, 32, 16, 24)}
    kept = {k for k in wanted if ".layers." not in k or int(k.split(".")[2]) < ENCODER.depth}
    assert set(adapter.state_dict()) == kept


def test_fine_tuning_begins_with_the_file_s_own_tensors(tmp_path):
    shapes = cross_attention_shapes(128, 96, 20) | encoder_shapes(64, 96, 128, 576)
    tensors = {k: torch.randn(s).bfloat16() for k, s in shapes.items()}
    path = tmp_path / "pulid_flux_v0.9.1.safetensors"
    save_file(tensors, path)
    with torch.inference_mode():  # as in a node
        adapter = load(path)
    found = adapter.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key].float()) for key in tensors)
    assert adapter.double_layers == 10
    assert all(p.requires_grad and not p.is_inference() for p in adapter.parameters())
    adapter.save(tmp_path / "tuned.safetensors", dtype=torch.bfloat16)
    again = load_file(tmp_path / "tuned.safetensors")
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("version", ["v1", "v1.1"])
@pytest.mark.parametrize("layout", [dict, converted], ids=["authors", "converted"])
def test_sdxl_files_of_both_versions_and_layouts_can_be_tuned(tmp_path, version, layout):
    tensors = pulid_weights(version, seed=3)
    save_file({k: v.contiguous() for k, v in layout(tensors).items()}, tmp_path / "a.safetensors")
    adapter = load(tmp_path / "a.safetensors")
    found = adapter.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key].float()) for key in tensors)
    assert adapter.family == f"sdxl-{version}"
    assert isinstance(adapter.id_encoder, id_mlp.IDMLP) == (version == "v1")


def test_metadata_are_kept_and_the_layout_is_added(flux, tmp_path):
    path = tmp_path / "a.safetensors"
    random_adapter(flux).save(path, ABOUT)
    wanted = {**ABOUT, "family": "flux", "double_layers": "2"}
    assert read_metadata(path) == wanted
    load(path).save(path, {"note": "tuned"})
    assert read_metadata(path) == {**wanted, "note": "tuned"}


def test_sdxl_settings_come_back_from_the_file(tmp_path):
    adapter = random_adapter(tiny_sdxl(), SDXL_ENCODER)
    adapter.num_zero, adapter.projection = 8, "ortho_v2"
    adapter.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert (again.num_zero, again.projection) == (8, "ortho_v2")


def test_an_adapter_for_another_model_is_refused(flux):
    encoder = ENCODER
    with pytest.raises(ValueError, match="is made for a FLUX model 256 values wide"):
        FluxAdapter(encoder, 256, 4, 1, 2, "mine").fits(flux)
    adapter = FluxAdapter(encoder, 128, 4, 1, 2)
    assert adapter.blocks(flux) == (
        ("double_block", 0, 0),
        ("double_block", 2, 1),
        ("single_block", 0, 2),
        ("single_block", 4, 3),
    )


def test_a_file_that_cannot_be_written_leaves_the_old_one(flux, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    adapter = random_adapter(flux)
    adapter.save(path, ABOUT)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RuntimeError, match=r"could not be saved as .*a\.safetensors: .*No space"):
        adapter.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_kind_of_file_is_refused_by_name(tmp_path):
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="this file is a FLUX diffusion model, not PuLID-FLUX"):
        load(tmp_path / "x.safetensors")


def test_narrow_computation_is_close_and_keeps_float32_weights(flux):
    adapter = random_adapter(flux)
    inputs = photos(2, dtype=torch.float32)
    exact = adapter.tokens(*inputs)
    adapter.dtype = torch.bfloat16
    rough = adapter.tokens(*inputs)
    assert (rough.dtype, next(adapter.parameters()).dtype) == (torch.float32, torch.float32)
    off = (rough - exact).norm() / exact.norm()
    assert 1e-5 < off < 2e-2
