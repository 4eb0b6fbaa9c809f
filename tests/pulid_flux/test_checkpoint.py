"""PuLID files: every size from the tensors, every fault named."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.identity.id_encoder import encode_each, encode_joint
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.checkpoint import (
    build_layers,
    check_kind,
    from_state_dict,
    load_pulid,
)
from safetensors.torch import save_file
from standins.flux import flux_shapes, random_weights
from standins.lab import TOKEN_WIDTH, person, small_flux, small_pulid
from standins.pulid import cross_attention_shapes, encoder_shapes

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


def weights(hidden=128, token_width=TOKEN_WIDTH, layers=20, encoder=64):
    shapes = cross_attention_shapes(hidden, token_width, layers)
    shapes |= encoder_shapes(encoder, token_width, 128, 576)
    return random_weights(shapes, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("hidden", "token_width", "layers", "encoder"),
    [(128, 96, 20, 64), (256, 48, 3, 128), (384, 200, 7, 192), (128, 96, 1, 64)],
)
def test_sizes_come_from_the_tensors(tmp_path, hidden, token_width, layers, encoder):
    path = tmp_path / "odd.safetensors"
    save_file(weights(hidden, token_width, layers, encoder), path)
    pulid = load_pulid(path)
    assert (pulid.width, pulid.token_width, len(pulid.layers)) == (hidden, token_width, layers)
    hidden_states = tuple(torch.randn(3, 17, 128) for _ in range(5))
    id_cond = torch.randn(3, 576)
    assert encode_joint(pulid.id_encoder, id_cond, hidden_states).shape == (1, 32, token_width)
    assert encode_each(pulid.id_encoder, id_cond, hidden_states).shape == (3, 32, token_width)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_files(tmp_path, dtype):
    save_file({k: v.to(dtype) for k, v in weights().items()}, tmp_path / "a.safetensors")
    pulid = load_pulid(tmp_path / "a.safetensors")
    tokens = encode_each(
        pulid.id_encoder, torch.randn(1, 576), tuple(torch.randn(1, 9, 128) for _ in "12345")
    )
    assert tokens.dtype == torch.float32 and torch.isfinite(tokens).all()


def test_pickled_files_are_read_without_running_them(tmp_path):
    torch.save(weights(), tmp_path / "a.pt")
    assert len(load_pulid(tmp_path / "a.pt").layers) == 20


def change(key, value):
    def apply(tensors):
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value

    return apply


Q, MAP = "pulid_ca.3.to_q.weight", "pulid_encoder.mapping_2.3.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change(Q, None), [Q, "lacks"]),
        (change(Q, torch.zeros(5, 5)), [Q, "[5, 5]", "[256, 128]"]),
        (change("pulid_ca.20.extra", torch.zeros(1)), ["pulid_ca.20"]),
        (change("pulid_ca.0.to_q.weight", torch.zeros(100, 128)), ["pulid_ca.0.to_q", "multiple"]),
        (change("pulid_ca.0.to_q.weight", torch.zeros(100)), ["pulid_ca.0.to_q", "matrix"]),
        (change("pulid_ca.0.norm1.weight", None), ["pulid_ca.0.norm1.weight", "lacks"]),
        (change(MAP, None), ["mapping_2.3"]),
        (change(MAP, torch.zeros(3, 3)), ["mapping_2"]),
        (change("pulid_encoder.latents", None), ["latents"]),
        (change("pulid_encoder.layers.10.0.to_q.weight", torch.zeros(64, 64)), ["layers.10"]),
        (change("pulid_encoder.surprise", torch.zeros(2)), ["surprise", "unexpected"]),
        (change(Q, torch.zeros(256, 128, dtype=torch.int8)), [Q, "int8"]),
    ],
)
def test_a_bad_tensor_is_named(edit, words):
    tensors = weights()
    edit(tensors)
    with pytest.raises(ValueError) as error:
        from_state_dict(tensors, "pulid.safetensors")
    for word in ["pulid.safetensors", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["id_adapter.proj.weight", "id_adapter_attn_layers.1.weight"], "PuLID for SDXL"),
        (["id_adapter.latents", "id_adapter.proj_out"], "PuLID for SDXL"),
        (["image_proj.latents", "ip_adapter.1.to_k_ip.weight"], "SDXL"),
        (list(flux_shapes(128, True, 64, 1, 1)), "a FLUX diffusion model"),
        (["model.diffusion_model.input_blocks.0.weight"], "a diffusion checkpoint"),
        (["visual.cls_token"], "EVA-CLIP"),
        (["pulid_encoder.latents"], "expected tensors"),
        (["something.else"], "expected tensors.*found something.else"),
        ([], "no named tensors"),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path, keys, kind):
    path = tmp_path / "wrong.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, path)
    with pytest.raises(ValueError, match=kind):
        load_pulid(path)


def test_truncated_empty_and_html_files(tmp_path):
    path = tmp_path / "pulid.safetensors"
    save_file(weights(), path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError) as error:
            load_pulid(path)
        assert str(path) in str(error.value) and f"{size} bytes" in str(error.value)
    path.write_text("<!DOCTYPE html><html>sign in</html>")
    with pytest.raises(ValueError, match="web page"):
        load_pulid(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_pulid(tmp_path / "nowhere.safetensors")


def test_a_pickle_with_code_does_not_run(tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (canary.touch, ())

    torch.save({"pulid_ca.0.to_q.weight": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_pulid(tmp_path / "bomb.pt")
    assert not canary.exists()


def apply(model, pulid, identity):
    return PuLIDFluxApplyIdentity.execute(model, pulid, identity, 1.0, 0.0, 1.0)


def test_models_of_another_kind_are_refused_by_name():
    from comfy import model_patcher, sd1_clip, supported_models  # noqa: F401
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.diffusion_model = UNetModel(
                image_size=8,
                in_channels=4,
                model_channels=32,
                out_channels=4,
                num_res_blocks=[1],
                channel_mult=[1],
                num_heads=1,
                use_spatial_transformer=False,
                transformer_depth=[0],
                transformer_depth_output=[0, 0],
                transformer_depth_middle=-1,
                device="meta",
            )

    class SDXL(Other):
        pass

    cpu = torch.device("cpu")
    patcher = model_patcher.ModelPatcher(SDXL(), load_device=cpu, offload_device=cpu)
    with pytest.raises(ValueError, match="SDXL, UNetModel"):
        apply(patcher, small_pulid(), person(1))


def test_flux_2_is_refused_by_name():
    model = small_flux(depth=1, depth_single=1)
    model.model.diffusion_model.params.global_modulation = True
    with pytest.raises(ValueError, match=r"FLUX\.2"):
        apply(model, small_pulid(), person(1))


def test_widths_and_depths_that_do_not_fit():
    model = small_flux(256, depth=1, depth_single=1)
    with pytest.raises(ValueError, match="128 values wide.*256 wide"):
        apply(model, small_pulid(), person(1))
    few = from_state_dict(weights(layers=1), "short")
    with pytest.raises(ValueError, match=r"asks for 1 \+ 1 identity layers.*short has 1 in all"):
        apply(small_flux(depth=1, depth_single=1), few, person(1))


def test_an_identity_of_another_width():
    with pytest.raises(ValueError, match="ID tokens of 50 values, but pulid 2 takes 96"):
        apply(small_flux(depth=1, depth_single=1), small_pulid(), person(1, token_width=50))


def switch_dynamic_vram_on(monkeypatch):
    """Throw the switch that ComfyUI sets on NVIDIA cards: its layers have no weight at first."""
    memory = pytest.importorskip("comfy.memory_management", reason="not in this ComfyUI yet")
    monkeypatch.setattr(memory, "aimdo_enabled", True, raising=False)


def test_a_file_is_loaded_under_dynamic_vram(monkeypatch):
    plain = from_state_dict(weights(), "x")
    switch_dynamic_vram_on(monkeypatch)
    pulid = from_state_dict(weights(), "x")
    inputs = torch.randn(1, 576), tuple(torch.randn(1, 9, 128) for _ in range(5))
    tokens = [encode_each(p.id_encoder, *inputs) for p in (plain, pulid)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("key", ["pulid_encoder.latents", "pulid_ca.3.to_q.weight"])
def test_under_dynamic_vram_a_damaged_file_is_named_as_before(key, monkeypatch):
    switch_dynamic_vram_on(monkeypatch)
    damaged = weights()
    del damaged[key]
    with pytest.raises(ValueError, match=key):
        from_state_dict(damaged, "x")


def test_a_file_can_be_overwritten_while_it_is_loaded(tmp_path):
    """Only dynamic VRAM reads weights from the mapped file; elsewhere they are in memory."""
    path = tmp_path / "a.safetensors"
    save_file(weights(), path)
    pulid = load_pulid(path)
    layer, latents = pulid.layers[3].to_q.weight, pulid.id_encoder.patcher.model.latents
    before = layer.clone(), latents.clone()
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 8)
        file.write(bytes(size - size // 8))
    assert torch.equal(layer, before[0]) and torch.equal(latents, before[1])


def test_metadata_may_say_whose_the_layers_are(tmp_path):
    path = tmp_path / "a.safetensors"
    for stated, expected in ((None, 10), ("12", 12), ("0", 0)):
        save_file(weights(), path, metadata=stated and {"double_layers": stated})
        assert load_pulid(path).double_layers == expected
    for wrong in ("21", "ten", "-1"):
        save_file(weights(), path, metadata={"double_layers": wrong})
        with pytest.raises(ValueError, match=f"double_layers = {wrong}, expected a number of at"):
            load_pulid(path)


@pytest.mark.parametrize("name", ["to_q", "to_kv"])
def test_a_file_whose_first_layer_lacks_what_sizes_are_read_from_is_named(name):
    key = f"pulid_ca.0.{name}.weight"
    with pytest.raises(ValueError, match=f"lacks the tensor {key}"):
        build_layers({k: v for k, v in weights(layers=1).items() if k != key}, "a file")


def test_a_layer_without_heads_is_named():
    empty = {**weights(layers=1), "pulid_ca.0.to_q.weight": torch.zeros(0, 128)}
    with pytest.raises(ValueError, match="has 0 rows, expected a multiple of 128"):
        build_layers(empty, "a file")


def test_a_file_of_another_kind_shows_three_of_its_tensors():
    with pytest.raises(ValueError, match=r"found a, b, c\. "):
        check_kind(dict.fromkeys("edcba", torch.zeros(1)), "a file")
