"""EVA-CLIP: the authors' numbers at full size, every file layout, and what is refused."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fixtures import golden_pixels as pixels
from PIL import Image
from places import GOLDEN
from pulid_pack.encoders import eva_clip
from pulid_pack.encoders.eva_clip import (
    encode_pixels,
    hidden_blocks,
    load_eva_clip,
    preprocess,
    run_tower,
)
from pulid_pack.encoders.pixels import whiten
from pulid_pack.identity.id_encoder import encode_joint, encode_zeros
from safetensors.torch import load_file, save_file
from standins.eva import (
    EVA_FILE,
    EVA_POOLED,
    eva_shapes,
    timm_layout,
    write_eva_clip,
)
from torch.nn.functional import normalize

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Return a small tower's file under the original's name."""
    return write_eva_clip(tmp_path_factory.mktemp("eva"))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_full_size_tower_meets_the_authors(golden_tower):
    golden = load_file(GOLDEN / "eva_clip.safetensors")
    pooled, hidden = run_tower(golden_tower, pixels(side=336))
    close(pooled, golden.pop("pooled"))
    assert [state.shape for state in hidden] == [(2, 577, 1024)] * 5
    assert len(golden) == 5
    for state, key in zip(hidden, sorted(golden), strict=True):
        close(state[:, ::36, ::8], golden[key])


def test_aligned_face_to_tokens_meets_the_authors(golden_tower, golden_encoder):
    """The whole way from an aligned face to ID tokens, conditional and unconditional."""
    golden = load_file(GOLDEN / "face_to_tokens.safetensors")
    face = torch.from_numpy(np.array(Image.open(GOLDEN / "aligned_face.png"))).float() / 255
    labels = golden["labels"].reshape(1, 512, 512).long()
    features = preprocess(face[None], labels, golden_tower.image_size)
    close(features[:, :, ::4, ::4], golden["features_336"])
    pooled, hidden = encode_pixels(golden_tower, features)
    close(pooled, normalize(golden["pooled"], dim=-1))
    id_cond = torch.cat((golden["arcface"], pooled), dim=-1)
    close(encode_joint(golden_encoder, id_cond, hidden), golden["id_tokens"])
    close(encode_zeros(golden_encoder, hidden), golden["uncond_id_tokens"])


def test_every_size_is_read_from_the_file(tmp_path):
    sizes = {"width": 192, "depth": 12, "image_size": 70, "pooled": 48}
    eva = load_eva_clip(write_eva_clip(tmp_path, **sizes))
    pooled, hidden = encode_pixels(eva, pixels(side=70))
    assert eva.image_size == 70
    assert eva.name == EVA_FILE
    assert pooled.shape == (2, 48)
    assert [state.shape for state in hidden] == [(2, 26, 192)] * 5


def test_results_are_float32_on_the_cpu_and_pooled_has_unit_length(small):
    pooled, hidden = encode_pixels(load_eva_clip(small), pixels())
    assert pooled.shape == (2, EVA_POOLED)
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))
    for state in (pooled, *hidden):
        assert state.dtype == torch.float32
        assert state.device.type == "cpu"


def test_a_batch_gives_what_each_picture_gives(small):
    eva = load_eva_clip(small)
    together = encode_pixels(eva, pixels())
    for i in range(2):
        pooled, hidden = encode_pixels(eva, pixels()[i : i + 1])
        close(together[0][i : i + 1], pooled)
        close(together[1][4][i : i + 1], hidden[4])


def test_hidden_blocks_are_the_authors():
    assert hidden_blocks(24) == [3, 7, 11, 15, 19]
    assert hidden_blocks(6) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("layout", ["visual.trunk.", "", "original without prefix", "safetensors"])
def test_other_layouts_load_to_the_same_tower(small, tmp_path, layout):
    original = torch.load(small, weights_only=True)
    path = tmp_path / "tower.safetensors"
    if layout == "safetensors":
        tensors = original
    elif layout == "original without prefix":
        tensors = {k[7:]: v for k, v in original.items() if k.startswith("visual.")}
    else:
        tensors = timm_layout(original, layout)
    save_file(tensors, path)
    expected, expected_hidden = encode_pixels(load_eva_clip(small), pixels())
    found, hidden = encode_pixels(load_eva_clip(path), pixels())
    assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(hidden, expected_hidden, strict=True))


def test_timms_filter_renames_every_key_and_the_way_back_is_known(small):
    original, prefix = eva_clip.picture_tower(torch.load(small, weights_only=True), small)
    model = eva_clip.build_tower(eva_clip.read_sizes(original, prefix, small))
    renamed, name_in_file = eva_clip.rename_for_timm(original, prefix, model)
    expected = timm_layout(original, "")
    assert list(renamed) == list(expected)
    assert all(renamed[key] is expected[key] for key in expected)
    assert [name_in_file(key) for key in renamed] == list(original)


def test_the_tower_is_the_one_that_open_clip_describes(small):
    """Heads of 64, and positions laid on the 16 x 16 grid that it was trained on: timm's own."""
    original, prefix = eva_clip.picture_tower(torch.load(small, weights_only=True), small)
    model = eva_clip.build_tower(eva_clip.read_sizes(original, prefix, small))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert len(model.blocks) == 6 and model.blocks[0].attn.num_heads == 2
    assert model.num_prefix_tokens == 1 and model.global_pool == "token"
    # each patch of a 4 x 4 grid lies four trained patches from the next: sin and cos of 4 * n
    table = model.rope.get_embed()
    assert table.shape == (16, 128) and table.device.type == "cpu"
    sines, cosines = table.chunk(2, dim=-1)
    steps = torch.tensor([0.0, 4.0, 8.0, 12.0])
    torch.testing.assert_close(sines[::4, 0], steps.sin())  # down the rows, the fastest band
    torch.testing.assert_close(cosines[::4, 0], steps.cos())
    torch.testing.assert_close(sines[:4, 32], steps.sin())  # along a row


def read_as_with_dynamic_vram(monkeypatch) -> None:
    """Throw the switch of ComfyUI's dynamic VRAM; its library maps files without a card, too."""
    control = pytest.importorskip("comfy_aimdo.control", reason="came with dynamic VRAM")
    memory = importlib.import_module("comfy.memory_management")
    if not hasattr(memory, "aimdo_enabled"):
        pytest.skip("this ComfyUI has no dynamic VRAM")
    monkeypatch.setattr(control, "lib", None)
    if not control.init():
        pytest.skip("dynamic VRAM's library does not load here")
    monkeypatch.delitem(sys.modules, "comfy_aimdo.model_mmap", raising=False)
    monkeypatch.setattr(memory, "aimdo_enabled", True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_weights_are_copied_out_of_the_file(small, tmp_path, monkeypatch, dynamic):
    """A tensor that stays mapped changes when its file is written over, and fails on Windows.

    ComfyUI's dynamic VRAM reads files in another way; the tower is the same.
    """
    if dynamic:
        read_as_with_dynamic_vram(monkeypatch)
    path = tmp_path / "tower.safetensors"
    save_file(timm_layout(torch.load(small, weights_only=True), ""), path)
    eva = load_eva_clip(path)
    monkeypatch.undo()
    expected = encode_pixels(load_eva_clip(small), pixels())[0]
    assert torch.equal(encode_pixels(eva, pixels())[0], expected)
    before = {k: v.clone() for k, v in eva.patcher.model.state_dict().items()}
    with path.open("r+b") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start)
        file.write(b"\x11" * (path.stat().st_size - start))
    after = eva.patcher.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_half_precision_file_is_computed_in_float32_on_a_cpu(small, tmp_path):
    tensors = {k: v.half() for k, v in torch.load(small, weights_only=True).items()}
    path = tmp_path / "half.safetensors"
    save_file(tensors, path)
    eva = load_eva_clip(path)
    expected = torch.float32 if eva.patcher.load_device.type == "cpu" else torch.float16
    assert {p.dtype for p in eva.patcher.model.parameters()} == {expected}


def test_loading_draws_no_random_numbers(small):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    load_eva_clip(small)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def spoil(small: Path, tmp_path: Path, change) -> Path:
    tensors = torch.load(small, weights_only=True)
    change(tensors)
    path = tmp_path / EVA_FILE
    torch.save(tensors, path)
    return path


KEY = "visual.blocks.3.attn.q_bias"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(KEY), f"lacks {KEY}"),
        (lambda t: t.pop("visual.blocks.2.mlp.w1.weight"), "lacks visual.blocks.2.mlp.w1.weight"),
        (lambda t: t.update({"visual.extra": t[KEY]}), "unexpected key visual.extra"),
        (lambda t: t.pop("visual.norm.weight"), "lacks visual.norm.weight"),
        # marks by which timm's filter knows other models
        (lambda t: t.update({"visual.mask_token": t[KEY]}), "unexpected key visual.mask_token"),
        (lambda t: t.update({"visual.conv1.weight": t[KEY]}), "key visual.conv1.weight"),
        (lambda t: t.update({KEY: t[KEY][:5]}), rf"{KEY} has shape \[5\], expected \[128\]"),
        (lambda t: t.update({"visual.pos_embed": t["visual.pos_embed"][:, :-1]}), "16 positions"),
        (lambda t: t.pop("visual.head.weight"), "head.weight"),
    ],
)
def test_a_wrong_key_is_named(small, tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        load_eva_clip(spoil(small, tmp_path, change))


def test_another_model_is_refused(tmp_path):
    path = tmp_path / "clip_l.safetensors"
    save_file({"text_model.embeddings.token_embedding.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(ValueError, match=r"EVA02_CLIP_L_336_psz14_s6B.*text_model") as error:
        load_eva_clip(path)
    assert str(path) in str(error.value)


def test_an_eva_of_another_make_is_refused(small, tmp_path):
    """EVA02-CLIP-E and EVA01 have one projection for q, k and v, and no rotary layout."""

    def fuse(tensors):
        for key in [k for k in tensors if "_proj.weight" in k]:
            tensors[key.replace("q_proj", "qkv")] = tensors.pop(key)

    with pytest.raises(ValueError, match="not EVA02-CLIP's vision tower"):
        load_eva_clip(spoil(small, tmp_path, fuse))


def test_eva_without_the_inner_norm_is_refused(small, tmp_path):
    def strip(tensors):
        for key in [k for k in tensors if "inner_attn_ln" in k]:
            del tensors[key]

    with pytest.raises(ValueError, match=r"no visual.blocks.0.attn.inner_attn_ln.weight"):
        load_eva_clip(spoil(small, tmp_path, strip))


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"width": 1024, "depth": 24, "image_size": 224}, "EVA02_CLIP_L_psz14_s4B"),
        ({"width": 768, "depth": 12, "image_size": 224}, "EVA02_CLIP_B_psz16_s8B"),
    ],
)
def test_the_towers_pulid_was_not_trained_with_are_named(sizes, name):
    shapes = eva_shapes(**sizes)
    tensors = {k: torch.empty(v, device="meta") for k, v in shapes.items()}
    tower, prefix = eva_clip.picture_tower(tensors, Path("other.pt"))
    with pytest.raises(ValueError, match=f"{name}.* blocks, {sizes['image_size']} pixels"):
        eva_clip.read_sizes(tower, prefix, Path("other.pt"))


def test_a_tower_too_shallow_for_five_states_is_refused():
    shapes = eva_shapes(depth=5)
    tensors = {k: torch.empty(v, device="meta") for k, v in shapes.items()}
    with pytest.raises(ValueError, match="sizes that no EVA02-CLIP tower has .*5 blocks"):
        eva_clip.read_sizes(*eva_clip.picture_tower(tensors, Path("a.pt")), Path("a.pt"))


def test_damaged_files_are_named_with_their_size(small, tmp_path):
    page = tmp_path / "page.pt"
    page.write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(ValueError, match=r"page.pt.*web page.*37 bytes.*about 856 MB"):
        load_eva_clip(page)
    for name in ("cut.pt", "cut.safetensors"):
        cut = tmp_path / name
        whole = small.read_bytes()
        if name.endswith("safetensors"):
            save_file({"visual.a": torch.zeros(99)}, tmp_path / "whole.safetensors")
            whole = (tmp_path / "whole.safetensors").read_bytes()
        cut.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{name}.*truncated.*bytes.*about 856 MB"):
            load_eva_clip(cut)
    empty = tmp_path / "empty.pt"
    empty.touch()
    with pytest.raises(ValueError, match="empty"):
        load_eva_clip(empty)
    with pytest.raises(FileNotFoundError, match=r"absent.pt.*EVA02_CLIP_L_336"):
        load_eva_clip(tmp_path / "absent.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "code.pt"
    torch.save({"visual.cls_token": Path("x")}, path)
    with pytest.raises(ValueError, match="code.pt"):
        load_eva_clip(path)


def test_an_old_timm_is_named_with_the_line_that_updates_it(small, monkeypatch):
    import timm

    monkeypatch.setattr(timm, "__version__", "1.0.9")
    with pytest.raises(RuntimeError, match=r'1.0.22 or later, found 1.0.9(.|\n)*-U "timm>=1.0.22"'):
        load_eva_clip(small)


def test_pixels_of_another_size_are_refused(small):
    eva = load_eva_clip(small)
    for wrong in (pixels(side=70), pixels(side=42), pixels(side=56)[:, :2], pixels(side=56)[0]):
        with pytest.raises(ValueError, match=r"\[B, 3, 56, 56\]"):
            encode_pixels(eva, wrong)


def test_whitening_keeps_face_hair_and_glasses_only():
    labels = torch.arange(19).repeat(512, 27)[:, :512][None]
    faces = torch.zeros(1, 512, 512, 3)
    faces[..., 0] = 1.0
    grey = whiten(faces, labels)[0, 0, :19]
    white = {0, 7, 8, 9, 14, 15, 16, 18}
    for label in range(19):
        expected = torch.ones(3) if label in white else torch.full((3,), 0.299)
        torch.testing.assert_close(grey[label], expected)
    colour = whiten(faces, labels, grayscale=False)[0, 0, :19]
    assert colour[1].tolist() == [1, 0, 0]
    assert colour[0].tolist() == [1, 1, 1]
