"""Face packs and their sessions: which files they are, what is refused, how long they live."""

from __future__ import annotations

import logging
import shutil
import weakref
from pathlib import Path

import comfy.model_management
import numpy as np
import pytest
import torch
from pulid_pack.encoders import (
    faces,
    sessions,
)
from pulid_pack.encoders.eva_clip import EvaClip, load_eva_clip
from pulid_pack.encoders.faces import detect_faces
from standins.eva import EVA_FILE
from standins.people import astronaut, load_faces, with_retinaface


@pytest.mark.parametrize("name", ["antelopev2", "own"])
def test_the_pack_is_told_by_its_recogniser(face_files, tmp_path, name):
    assert load_faces(face_files).notes == ()
    source, pack = face_files / "antelopev2", tmp_path / name
    pack.mkdir()
    shutil.copy(source / "scrfd_10g_bnkps.onnx", pack / "det_10g.onnx")
    shutil.copy(source / "glintr100.onnx", pack / "w600k_r50.onnx")
    (note,) = sessions.open_sessions(pack, "CPU")[1]
    assert f"{name} is not antelopev2 (its recogniser is w600k_r50.onnx)" in note
    assert "another face space, low likeness" in note
    shutil.copy(source / "glintr100.onnx", pack / "glintr100.onnx")
    assert sessions.open_sessions(pack, "CPU")[1] == ()


def test_a_nested_pack_is_found(face_files, tmp_path):
    nested = tmp_path / "antelopev2" / "antelopev2"
    shutil.copytree(face_files / "antelopev2", nested)
    assert sessions.FaceSessions(tmp_path / "antelopev2", "CPU").pack == nested


def test_a_pack_with_other_file_names_works(face_files, tmp_path):
    source, pack = face_files / "antelopev2", tmp_path / "own"
    pack.mkdir()
    shutil.copy(source / "scrfd_10g_bnkps.onnx", pack / "b.onnx")
    shutil.copy(source / "glintr100.onnx", pack / "a.onnx")
    opened, _ = sessions.open_sessions(pack, "CPU")
    assert opened.get("detection").taskname == "detection"
    assert opened.get("recognition").taskname == "recognition"
    assert opened.recogniser == "a.onnx"


@pytest.mark.parametrize("content", ["empty", "zip", "absent"])
def test_a_pack_without_models_tells_what_was_wanted_and_found(tmp_path, content):
    pack = tmp_path / "antelopev2"
    if content != "absent":
        pack.mkdir()
    if content == "zip":
        (pack / "antelopev2.zip").touch()
    told = {"empty": "Found: nothing", "zip": "Found: antelopev2.zip", "absent": "does not exist"}
    with pytest.raises(FileNotFoundError, match=told[content]) as error:
        sessions.find_models(pack)
    for wanted in (str(pack), "scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        assert wanted in str(error.value)


@pytest.mark.parametrize(
    ("kept", "missing"),
    [("glintr100.onnx", "no face detector"), ("scrfd_10g_bnkps.onnx", "no face recogniser")],
)
def test_a_pack_lacking_one_model_tells_which(face_files, tmp_path, kept, missing):
    shutil.copy(face_files / "antelopev2" / kept, tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{missing}.*Found: {kept}"):
        sessions.open_sessions(tmp_path, "CPU")


@pytest.mark.parametrize("damage", ["cut", "page", "empty", "pointer"])
def test_a_damaged_onnx_file_is_named_with_its_size(face_files, tmp_path, damage):
    pack = shutil.copytree(face_files / "antelopev2", tmp_path / "antelopev2")
    file = pack / "glintr100.onnx"
    whole = file.read_bytes()
    content, told = {
        "cut": (whole[: len(whole) // 2], "truncated or damaged"),
        "page": (b"<html>not found</html>", "a web page"),
        "empty": (b"", "it is empty"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    }[damage]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"glintr100.onnx.*{told}.*\({len(content)} bytes\)") as e:
        load_faces(tmp_path, provider="CPU")
    assert "260.7 MB" in str(e.value)


def test_files_that_are_not_the_published_ones_are_a_warning(face_files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        sessions.open_sessions(face_files / "antelopev2", "CPU")
    assert caplog.text.count("is not the published antelopev2 file") == 2
    caplog.clear()
    own = shutil.copytree(face_files / "antelopev2", tmp_path / "mine")
    sessions.open_sessions(own, "CPU")
    assert not caplog.text


def test_on_the_cpu_sessions_live_until_the_loaders_output_dies(face_files):
    """No run, and nothing that the host unloads, ends them; the last reference does, at once."""
    analysis = load_faces(face_files)
    faces.face_features(analysis, small_eva(face_files), portrait())
    detect_faces(analysis, astronaut())
    comfy.model_management.unload_all_models()
    analysis.sessions.rest()
    assert analysis.sessions.loads == 1
    alive = [weakref.ref(model.session) for model in analysis.sessions.models.values()]
    assert len(alive) == 2 and all(one() for one in alive)
    del analysis
    assert not any(one() for one in alive)


def test_on_an_accelerator_encoding_ends_the_sessions_and_nothing_else(face_files, monkeypatch):
    """The memory of onnxruntime is beyond the host's reach; all other models are the host's."""
    analysis, eva = load_faces(face_files), small_eva(face_files)
    held = analysis.sessions
    before = detect_faces(analysis, astronaut())
    monkeypatch.setattr(sessions.FaceSessions, "at_work", "CUDA")
    alive = [weakref.ref(model.session) for model in held.models.values()]
    faces.face_features(analysis, eva, portrait())
    assert held.loads == 1 and not held.models and not any(one() for one in alive)
    loaded = [m.model for m in comfy.model_management.current_loaded_models]
    assert any(m.is_clone(analysis.parser) for m in loaded)
    assert any(m.is_clone(eva.patcher) for m in loaded)
    with pytest.raises(ValueError, match="No face was found"):
        faces.face_features(analysis, eva, torch.zeros(1, 64, 64, 3))
    assert held.loads == 2 and not held.models
    after = detect_faces(analysis, astronaut())  # and they come back when they are wanted
    assert held.loads == 3
    assert np.array_equal(before[0].box, after[0].box)


def small_eva(face_files: Path) -> EvaClip:
    return load_eva_clip(face_files / EVA_FILE)


def portrait() -> torch.Tensor:
    return torch.from_numpy(astronaut())[None] / 255


def test_loading_draws_no_random_numbers(face_files):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with_retinaface(face_files)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_of_a_pack_no_more_files_are_opened_than_are_needed(face_files, tmp_path, monkeypatch):
    pack = shutil.copytree(face_files / "antelopev2", tmp_path / "pack")
    shutil.copy(pack / "glintr100.onnx", pack / "y.onnx")
    opened = []
    real = sessions.open_model
    monkeypatch.setattr(
        sessions, "open_model", lambda file, provider: opened.append(file) or real(file, provider)
    )
    files = [pack / name for name in ("glintr100.onnx", "scrfd_10g_bnkps.onnx", "y.onnx")]
    assert set(sessions.open_models(files, pack, "CPU")) == {"detection", "recognition"}
    assert opened == files[:2]


def test_a_damaged_pack_file_of_unknown_size_is_named_without_one(tmp_path):
    (tmp_path / "own.onnx").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"own.onnx.*\(100 bytes\), expected an ONNX model\."):
        sessions.open_model(tmp_path / "own.onnx", "CPU")


def test_only_an_accelerator_that_does_not_start_again_is_told(face_files, monkeypatch, caplog):
    """That it does not start at all is a note on the loader."""
    held = sessions.FaceSessions(face_files / "antelopev2", "CPU")
    monkeypatch.setattr(sessions.FaceSessions, "at_work", "another")
    for told in (False, True):
        held.models = {}
        held.get("detection")
        assert ("could not be started again" in caplog.text) == told
