"""Model files are found wherever ComfyUI, or an older pack, keeps them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import folder_paths
import pytest
import torch
from pulid_pack.encoders.faces import PhotoRecord
from pulid_pack.identity.identity import Identity
from pulid_pack.nodes import encoding, folders, load
from pulid_pack.nodes.feedback import show
from pulid_pack.nodes.folders import EVA_CLIP, FACE_PACK, LANDMARKS, PARSING, PULID


@pytest.fixture
def root(tmp_path):
    """Register a further models folder, as a line of extra_model_paths.yaml does."""
    names = ("pulid", "eva_clip", "clip_vision", "text_encoders", "insightface", "facexlib")
    before = {name: folder_paths.folder_names_and_paths.get(name) for name in names}
    for name in names:
        paths, kinds = before[name] or ([], set())
        folder_paths.folder_names_and_paths[name] = ([str(tmp_path / name), *paths], kinds)
    yield tmp_path
    for name, value in before.items():
        if value is None:
            del folder_paths.folder_names_and_paths[name]
        else:
            folder_paths.folder_names_and_paths[name] = value


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_files_are_found_flat_and_in_subfolders(root):
    flat = put(root / "pulid" / "pulid_flux_v0.9.1.safetensors")
    deep = put(root / "pulid" / "old" / "pulid_flux_v0.9.0.safetensors")
    put(root / "pulid" / "readme.txt")
    assert folders.find(PULID, "pulid_flux_v0.9.1.safetensors") == flat
    assert folders.find(PULID, "old/pulid_flux_v0.9.0.safetensors") == deep
    assert folders.options(PULID)[0] == "pulid_flux_v0.9.1.safetensors"
    assert "readme.txt" not in folders.options(PULID)


@pytest.mark.parametrize("folder", ["eva_clip", "clip_vision", "text_encoders"])
def test_eva_clip_is_found_where_older_packs_put_it(root, folder):
    path = put(root / folder / "EVA02_CLIP_L_336_psz14_s6B.pt")
    put(root / "text_encoders" / "t5xxl_fp16.safetensors")
    assert folders.find(EVA_CLIP, path.name) == path
    assert folders.options(EVA_CLIP) == [path.name]


@pytest.mark.parametrize(
    "place", ["models/antelopev2", "antelopev2", "models/antelopev2/antelopev2"]
)
def test_face_packs_are_found_flat_and_nested(root, place):
    put(root / "insightface" / place / "glintr100.onnx")
    found = folders.find(FACE_PACK, "antelopev2")
    assert found.name == "antelopev2" and list(found.rglob("glintr100.onnx"))
    assert folders.options(FACE_PACK) == ["antelopev2"]


def test_facexlib_s_own_folder_counts(root):
    own = Path(importlib.util.find_spec("facexlib").submodule_search_locations[0]) / "weights"
    assert own in folders.places(PARSING)
    path = put(root / "facexlib" / "parsing_bisenet.pth")
    put(root / "facexlib" / "detection_Resnet50_Final.pth")
    assert folders.find(PARSING, path.name) == path
    assert folders.options(PARSING) == ["parsing_bisenet.pth"]
    assert list(folders.files(LANDMARKS)) == ["detection_Resnet50_Final.pth"]


@pytest.mark.parametrize("kind", [PULID, EVA_CLIP, PARSING, FACE_PACK, LANDMARKS])
def test_what_is_missing_is_told_with_all_that_helps(root, kind):
    with pytest.raises(FileNotFoundError) as error:
        folders.find(kind, "nothing-like-that")
    text = str(error.value)
    assert str(root / kind.folders[0]) in text
    assert kind.wanted in text and "MB" in text + "MB" * ("GB" in text) and "https://" in text
    assert folders.options(kind)  # the usual name, so that a workflow opens and can explain


@pytest.mark.parametrize("name", ["../pulid_flux_v0.9.1.safetensors", "/etc/passwd", "a\0b", ""])
def test_names_from_outside_are_not_found(root, name):
    put(root / "pulid_flux_v0.9.1.safetensors")
    with pytest.raises(FileNotFoundError):
        folders.find(PULID, name)
    with pytest.raises(FileNotFoundError):
        folders.find(FACE_PACK, name)


def test_every_models_root_of_comfyui_is_known(tmp_path):
    other = tmp_path / "elsewhere"
    (other / "pulid").mkdir(parents=True)
    folder_paths.add_model_folder_path("loras", str(other / "loras"))
    try:
        folders.register()
        assert str(other / "pulid") in folder_paths.get_folder_paths("pulid")
        twice = folder_paths.get_folder_paths("pulid").count(str(other / "pulid"))
        folders.register()
        assert folder_paths.get_folder_paths("pulid").count(str(other / "pulid")) == twice == 1
    finally:
        folder_paths.get_folder_paths("loras").remove(str(other / "loras"))
        folder_paths.get_folder_paths("pulid").remove(str(other / "pulid"))


def test_the_face_loader_tells_all_that_is_missing_at_once(root):
    with pytest.raises(FileNotFoundError) as error:
        load.PuLIDFluxLoadInsightFace.execute("no pack", "auto", "no parser.pth", "no points.pth")
    for name in ("no pack", "no parser.pth", "no points.pth"):
        assert name in str(error.value)


def test_a_replaced_file_changes_the_fingerprint(root):
    path = put(root / "pulid" / "a.safetensors")
    before = load.PuLIDFluxLoadModel.fingerprint_inputs("a.safetensors")
    assert before == load.PuLIDFluxLoadModel.fingerprint_inputs("a.safetensors")
    path.write_bytes(b"another")
    assert before != load.PuLIDFluxLoadModel.fingerprint_inputs("a.safetensors")


def test_a_photo_of_somebody_else_is_a_warning_with_its_index(caplog):
    """Photo 1 was skipped; of 0, 2 and 3 the last shows another person."""
    one, other = torch.eye(512)[:2]
    arcface = torch.stack([one, one + 0.1 * other, other])
    records = tuple(PhotoRecord(i, (), None if i == 1 else 0) for i in range(4))
    empty = torch.zeros(3, 1)
    notes = encoding.notes_on(encoding.Encoded(Identity(empty, empty), empty, records, arcface))

    class Node:
        hidden = None

    shown = show(Node, notes)["pulid_notes"]
    assert [(note["text"], note["warning"]) for note in shown] == [
        ("No face in image 1: left out.", True),
        (
            "How much the faces agree with the others: image 0 0.50, image 2 0.55, image 3 0.05.",
            False,
        ),
        (
            "Image 3 looks like a different person: its similarity to the other photos is 0.05, "
            "expected 0.3 or more.",
            True,
        ),
    ]
    assert "Image 3 looks" in caplog.text and "No face in image 1" in caplog.text
    assert "How much" not in caplog.text


def test_linked_folders_are_seen(root, tmp_path):
    """ComfyUI follows links, and so do users who keep their models elsewhere."""
    elsewhere = put(tmp_path / "elsewhere" / "deep" / "pulid_flux_v0.9.1.safetensors")
    (root / "pulid").mkdir()
    (root / "pulid" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    name = "linked/deep/pulid_flux_v0.9.1.safetensors"
    assert folders.options(PULID) == [name]
    assert folders.find(PULID, name).samefile(elsewhere)


def test_antelopev2_is_the_default_even_when_only_another_pack_is_there(root):
    put(root / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx")
    assert folders.options(FACE_PACK) == ["antelopev2", "buffalo_l"]
    info = load.PuLIDFluxLoadInsightFace.define_schema().inputs[0]
    assert info.options[0] == "antelopev2"
    with pytest.raises(FileNotFoundError, match="'antelopev2' was not found. There: buffalo_l."):
        folders.find(FACE_PACK, "antelopev2")


def test_a_zip_and_a_loose_file_are_named(root):
    zipped = put(root / "insightface" / "models" / "antelopev2.zip")
    loose = put(root / "insightface" / "glintr100.onnx")
    with pytest.raises(FileNotFoundError) as error:
        folders.find(FACE_PACK, "antelopev2")
    assert f"Still zipped, unpack it into a folder of its name: {zipped}." in str(error.value)
    assert f"Not in the folder of a pack, move them into one: {loose}." in str(error.value)


@pytest.mark.parametrize("place", ["insightface", "insightface/models"])
def test_the_files_of_antelopev2_without_its_folder_are_used(root, place):
    for name in folders.LOOSE_PACK:
        put(root / place / name)
    assert folders.options(FACE_PACK) == ["antelopev2"]
    assert folders.find(FACE_PACK, "antelopev2") == root / place


def test_insightface_s_own_folder_counts(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root / "home"))
    monkeypatch.setenv("USERPROFILE", str(root / "home"))
    put(root / "home" / ".insightface" / "models" / "antelopev2" / "glintr100.onnx")
    found = folders.find(FACE_PACK, "antelopev2")
    assert found == root / "home" / ".insightface" / "models" / "antelopev2"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (EVA_CLIP, "models--QuanSun--EVA-CLIP/snapshots/11afd202/EVA02_CLIP_L_336_psz14_s6B.pt"),
        (
            EVA_CLIP,
            "models--timm--eva02_large_patch14_clip_336.merged2b_s6b_b61k/snapshots/0f/"
            "open_clip_model.safetensors",
        ),
        (PULID, "models--guozinan--PuLID/snapshots/c3e0f5/pulid_flux_v0.9.1.safetensors"),
    ],
    ids=["EVA-CLIP", "open_clip", "PuLID"],
)
def test_hugging_face_s_cache_counts(root, monkeypatch, kind, name):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(root / "hf"))
    path = put(root / "hf" / "hub" / name)
    put(path.with_name("pulid_v1.bin"))  # for SDXL
    assert folders.options(kind) == [path.name]
    assert folders.find(kind, path.name) == path
    own = put(root / kind.folders[0] / path.name)
    assert folders.find(kind, path.name) == own  # ComfyUI's folders come first
