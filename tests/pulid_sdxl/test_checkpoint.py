"""PuLID-SDXL files: the authors' and the converted ones, and everything that is taken for one."""

from __future__ import annotations

import pytest
import torch
from golden.weights import golden_state_dict
from pulid_pack.identity import id_mlp
from pulid_pack.pulid_flux.checkpoint import load_pulid
from pulid_pack.pulid_sdxl.checkpoint import load_pulid_sdxl
from safetensors.torch import save_file
from standins.pulid import cross_attention_shapes, encoder_shapes
from standins.sdxl import mlp_shapes

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's

LAYERS = {
    f"id_adapter_attn_layers.{n}.id_to_{x}.weight": (32 if n < 5 else 64, 64)
    for n in range(1, 9, 2)
    for x in "kv"
}
RENAMED = (
    ("id_adapter.", "image_proj."),
    ("id_adapter_attn_layers.", "ip_adapter."),
    ("id_to_k", "to_k_ip"),
    ("id_to_v", "to_v_ip"),
)


def authors(version: str) -> dict[str, torch.Tensor]:
    """Return a small file of this version under the authors' keys."""
    encoder = mlp_shapes("id_adapter.", 64)
    if version == "sdxl-v1.1":
        shapes = encoder_shapes(64, 64, 128, 576)
        encoder = {k.replace("pulid_encoder.", "id_adapter."): v for k, v in shapes.items()}
    return golden_state_dict(encoder | LAYERS, version)


def converted(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename and cast, as the converted files do."""
    found = {}
    for key, value in state_dict.items():
        for old, new in RENAMED:
            key = key.replace(old, new)
        found[key] = value.half()
    return found


def nested(state_dict: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    groups: dict[str, dict] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state_dict.items():
        group, name = key.split(".", 1)
        groups[group][name] = value
    return groups


def write(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


FORMS = [  # nobody makes a nested one with the authors' names
    ("authors", "flat.safetensors"),
    ("authors", "flat.bin"),
    ("converted", "flat.safetensors"),
    ("converted", "flat.bin"),
    ("converted", "nested.bin"),
]


@pytest.mark.parametrize("version", ["sdxl-v1", "sdxl-v1.1"])
@pytest.mark.parametrize(("layout", "form"), FORMS)
def test_every_layout_is_the_same_model(tmp_path, version, layout, form):
    original = authors(version)
    tensors = converted(original) if layout == "converted" else original
    path = write(tmp_path / form, nested(tensors) if "nested" in form else tensors)
    pulid = load_pulid_sdxl(path)
    assert (pulid.family, pulid.token_width, len(pulid.layers)) == (version, 64, 4)
    for number, layer in enumerate(pulid.layers):
        for part, map_ in (("k", layer.id_to_k), ("v", layer.id_to_v)):
            expected = original[f"id_adapter_attn_layers.{2 * number + 1}.id_to_{part}.weight"]
            same = expected.half() if layout == "converted" else expected
            assert torch.equal(map_.weight, same)
    encoder = pulid.id_encoder.patcher.model.state_dict()
    for key, value in encoder.items():
        expected = original[f"id_adapter.{key}"]
        assert torch.equal(value, expected.half() if layout == "converted" else expected), key


def flux() -> dict[str, torch.Tensor]:
    shapes = cross_attention_shapes(64, 64, 20) | encoder_shapes(64, 64, 128, 576)
    return golden_state_dict(shapes)


def ip_adapter_plus() -> dict[str, torch.Tensor]:
    own = converted(authors("sdxl-v1.1"))
    own = {k: v for k, v in own.items() if "mapping" not in k and k != "image_proj.proj_out"}
    return own | {"image_proj.proj_out.weight": torch.zeros(64, 64)}


def without(key: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in authors("sdxl-v1").items() if k != key}


def changed(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return authors("sdxl-v1") | {key: tensor}


LAYER = "id_adapter_attn_layers.3.id_to_v.weight"
BAD = [
    (flux, "this file is PuLID-FLUX \\(use Load PuLID Model\\), not PuLID-SDXL"),
    (ip_adapter_plus, "this file is an IP-Adapter or InstantID for SDXL, not PuLID-SDXL"),
    (lambda: {"input_blocks.0.0.weight": torch.zeros(1)}, "this file is a diffusion model"),
    (lambda: {"hello": torch.zeros(1)}, "found hello"),
    (lambda: without(LAYER), f"lacks the tensor {LAYER}"),
    (lambda: without("id_adapter.mapping_3.4.bias"), "lacks id_adapter.mapping_3.4.bias"),
    (lambda: without("id_adapter.body.6.weight"), "lacks the tensor id_adapter.body.6.weight"),
    (lambda: changed(LAYER, torch.zeros(32)), "shape \\[32\\], not a matrix"),
    (lambda: changed(LAYER, torch.zeros(32, 65)), f"{LAYER} has shape \\[32, 65\\]"),
    (lambda: changed(LAYER, torch.full((32, 64), torch.nan)), f"'{LAYER}' has values that are not"),
    (lambda: changed(LAYER, torch.zeros(32, 64).int()), f"'{LAYER}' is torch.int32, not a float"),
    (lambda: changed("id_adapter.more", torch.zeros(1)), "unexpected key id_adapter.more"),
    (lambda: changed("id_adapter_attn_layers.4.id_to_k.weight", torch.zeros(64, 64)), "unexpected"),
    (
        lambda: {k: v for k, v in authors("sdxl-v1").items() if "attn_layers" not in k},
        "the ID encoder of PuLID-SDXL v1 alone",
    ),
    (
        lambda: golden_state_dict(mlp_shapes("id_adapter.", 32) | LAYERS),
        "makes tokens of 32 values.*take 64",
    ),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=range(len(BAD)))
def test_another_or_damaged_file_is_named(tmp_path, make, words):
    path = write(tmp_path / "file.safetensors", make())
    with pytest.raises(ValueError, match=words) as error:
        load_pulid_sdxl(path)
    assert "file.safetensors" in str(error.value)


@pytest.mark.parametrize("version", ["sdxl-v1", "sdxl-v1.1"])
def test_the_flux_loader_refuses_these_files(tmp_path, version):
    path = write(tmp_path / "pulid.safetensors", authors(version))
    with pytest.raises(ValueError, match="this file is PuLID for SDXL"):
        load_pulid(path)
    renamed = write(tmp_path / "converted.safetensors", converted(authors(version)))
    with pytest.raises(ValueError, match="this file is PuLID or IP-Adapter for SDXL"):
        load_pulid(renamed)


def test_a_pickle_that_runs_code_is_not_loaded(tmp_path):
    path = tmp_path / "pulid_v1.bin"
    torch.save({"id_adapter.body.0.weight": print}, path)
    with pytest.raises(ValueError, match="cannot be read as model weights"):
        load_pulid_sdxl(path)


def test_the_released_sizes_are_those_of_a_module_made_without():
    released = {"body": 1024, "mapping": 1024, "face_tokens": 5, "output": 2048}
    assert vars(id_mlp.Sizes()) == {**released, "id_cond": 1280, "vit": 1024}


def test_a_file_of_another_kind_shows_three_of_its_tensors(tmp_path):
    path = write(tmp_path / "a.safetensors", {key: torch.zeros(1) for key in "edcba"})
    with pytest.raises(ValueError, match=r"found a, b, c\. "):
        load_pulid_sdxl(path)
