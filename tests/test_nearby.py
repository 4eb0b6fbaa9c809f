"""Face packs and EVA-CLIP that other programs left nearby are used, or named."""

from __future__ import annotations

import shutil
from pathlib import Path

import folder_paths
import pytest
from huggingface_hub import constants
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.nearby import OPEN_CLIP_REPOSITORY
from pulid_pack.encoders.sessions import open_sessions
from pulid_pack.nodes import folders
from pulid_pack.nodes.folders import EVA_CLIP, FACE_PACK
from standins.eva import EVA_FILE, write_eva_clip
from standins.faces import write_face_pack

FILES = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return write_face_pack(tmp_path_factory.mktemp("packs") / "antelopev2")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Return a folder with nothing but models/insightface, and a home and cache of its own."""
    for name in ("eva_clip", "clip_vision", "text_encoders", "insightface"):
        place = tmp_path / "models" / name
        place.mkdir(parents=True)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(place)], set()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def lay(pack: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(pack / name, folder)


@pytest.mark.parametrize(
    "place",
    [
        "models/insightface",
        "models/insightface/models",
        "home/.insightface/models/antelopev2",
        "home/.insightface/models/antelopev2/antelopev2",
    ],
)
def test_antelopev2_is_used_where_it_lies_loose_or_insightface_put_it(root, pack, place):
    lay(pack, root / place)
    put(root / place / "inswapper_128.onnx")  # often lies there too
    assert folders.options(FACE_PACK) == ["antelopev2"]
    opened, notes = open_sessions(folders.find(FACE_PACK, "antelopev2"), "auto")
    assert opened.pack == root / place and notes == ()


def test_a_folder_of_its_own_comes_first(root, pack):
    own = root / "models" / "insightface" / "models" / "antelopev2"
    for place in (
        own,
        root / "models" / "insightface",
        root / "home/.insightface/models/antelopev2",
    ):
        lay(pack, place)
    assert folders.packs() == {"antelopev2": own}


def test_only_antelopev2_is_taken_from_the_home(root):
    put(root / "home" / ".insightface" / "models" / "buffalo_l" / "w600k_r50.onnx")
    assert folders.packs() == {}


def test_archives_and_single_files_are_named_where_the_pack_is_missing(root):
    insightface = root / "models" / "insightface"
    zipped = put(insightface / "models" / "antelopev2.zip")
    at_home = put(root / "home" / ".insightface" / "models" / "antelopev2.zip")
    single = put(insightface / "glintr100.onnx")
    with pytest.raises(FileNotFoundError) as error:
        folders.find(FACE_PACK, "antelopev2")
    text = str(error.value)
    assert f"Still zipped, to be unpacked there: {zipped}, {at_home}." in text
    assert f"Lying loose, belongs into a folder antelopev2 there: {single}." in text
    assert sorted(p.name for p in insightface.rglob("*")) == [
        "antelopev2.zip",
        "glintr100.onnx",
        "models",
    ]


def cached(root: Path, repository: str, file: str) -> Path:
    """Return where the Hugging Face cache keeps ``file``, with its reference written."""
    cache = root / "hub" / f"models--{repository.replace('/', '--')}"
    put(cache / "refs" / "main").write_text("abc")
    return cache / "snapshots" / "abc" / file


def test_eva_clip_is_read_from_the_hugging_face_cache(root):
    path = cached(root, "QuanSun/EVA-CLIP", EVA_FILE)
    assert folders.files(EVA_CLIP) == {}
    write_eva_clip(put(path))
    assert folders.options(EVA_CLIP) == [EVA_FILE]
    assert folders.find(EVA_CLIP, EVA_FILE) == path
    assert load_eva_clip(path).name == EVA_FILE
    own = put(root / "models" / "eva_clip" / EVA_FILE)
    assert folders.find(EVA_CLIP, EVA_FILE) == own


def test_open_clips_download_is_offered_under_its_repository(root):
    path = put(cached(root, OPEN_CLIP_REPOSITORY, "open_clip_model.safetensors"))
    name = "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k/open_clip_model.safetensors"
    assert folders.files(EVA_CLIP) == {name: path}
