"""The face models: packs and providers, bad files, detection, order, alignment, life in memory."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import comfy.model_management
import execution
import folder_paths
import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from pulid_pack.encoders import (
    align,
    detection,
    faces,
    landmarks,
    parsing,
    providers,
    sessions,
)
from pulid_pack.encoders.detection import Face, face_vector, order_faces, overlap
from pulid_pack.encoders.eva_clip import EvaClip, load_eva_clip
from pulid_pack.encoders.faces import FACE_ORDERS, align_face, detect_faces, load_face_analysis
from pulid_pack.nodes import load as load_nodes
from standins.eva import EVA_FILE, write_eva_clip
from standins.faces import write_face_pack, write_parsing, write_retinaface

import nodes as host_nodes

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Return a folder with the stand-in pack, parser and RetinaFace."""
    folder = tmp_path_factory.mktemp("faces")
    write_face_pack(folder / "antelopev2")
    write_parsing(folder)
    write_retinaface(folder, finds=True)
    write_eva_clip(folder)
    return folder


@pytest.fixture(scope="module")
def analysis(files):
    with torch.inference_mode():
        return load(files)


def load(files: Path, pack: str = "antelopev2", provider: str = "auto", **kwargs):
    return load_face_analysis(files / pack, provider, files / "parsing_bisenet.pth", **kwargs)


def with_retinaface(files: Path):
    return load(files, landmarks=files / "detection_Resnet50_Final.pth")


def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


def crowd() -> np.ndarray:
    """Fifty small copies of one face."""
    one = Image.fromarray(astronaut()[30:190, 150:310]).resize((100, 100))
    sheet = Image.new("RGB", (1000, 500), (128, 128, 128))
    for i in range(50):
        sheet.paste(one, (i % 10 * 100, i // 10 * 100))
    return np.array(sheet)


# Packs


def test_auto_is_the_cpu(analysis, files):
    assert analysis.provider == "CPU"
    assert analysis.pack == files / "antelopev2"
    assert analysis.notes == ()


def test_auto_is_the_cpu_where_an_accelerator_is_listed_first(files, monkeypatch):
    offer(monkeypatch, "CUDA")
    assert providers.choose_provider("auto") == ("CPU", ())
    assert load(files).provider == "CPU"


def offer(monkeypatch, *names: str) -> None:
    """Let onnxruntime list further providers, as its other wheels do; starting one still fails."""
    import onnxruntime

    listed = [providers.PROVIDERS[name] for name in (*names, "CPU")]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)


def test_a_provider_that_is_not_offered_is_refused_with_the_list(files):
    offered = providers.offered_providers()
    absent = next(name for name in providers.PROVIDERS if name not in offered)
    with pytest.raises(ValueError, match=rf"provider {absent} here; it offers .*CPU"):
        load(files, provider=absent)
    with pytest.raises(ValueError, match="Unknown provider 'TPU'; choose one of auto, CPU, CUDA,"):
        load(files, provider="TPU")


@pytest.mark.parametrize("provider", ["CUDA", "MIGraphX", "DirectML"])
def test_an_accelerator_that_does_not_start_is_told_and_the_cpu_does_it(
    files, monkeypatch, provider
):
    """What onnxruntime-gpu does without CUDA: it lists the provider and runs on the CPU."""
    if provider in providers.offered_providers():
        pytest.skip("it may start here")
    offer(monkeypatch, provider)
    found = load(files, provider=provider)
    assert found.provider == found.sessions.at_work == "CPU"
    (note,) = found.notes
    assert f"onnxruntime offers {provider} but could not start it" in note
    assert "the face models run on the CPU" in note
    detect_faces(found, astronaut())
    found.sessions.rest()
    assert found.sessions.models and found.sessions.loads == 1  # it takes no accelerator's memory


def test_the_provider_of_version_0_1_goes_on_working(files, monkeypatch):
    """ROCM is AMD's former provider: its heir is taken where it is, else the CPU."""
    found = load(files, provider="ROCM")
    if "MIGraphX" not in providers.offered_providers():
        assert found.provider == "CPU"
        assert found.notes == (
            "The provider ROCM has become MIGraphX, which this onnxruntime does not have: CPU is "
            "used.",
        )
    offer(monkeypatch, "CUDA", "MIGraphX")
    chosen = providers.choose_provider("ROCM")
    assert chosen == ("MIGraphX", ("The provider ROCM has become MIGraphX.",))


def test_the_node_lists_the_table_and_the_host_takes_old_choices_too(monkeypatch, tmp_path):
    for name in load_nodes.folders.OWN_FOLDERS:
        place = ([str(tmp_path)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, place)
    schema = load_nodes.PuLIDFluxLoadInsightFace.define_schema()
    (provider,) = (one for one in schema.inputs if one.id == "provider")
    assert provider.options == ["auto", "CPU", "CUDA", "MIGraphX", "CoreML", "DirectML"]
    for name in ("auto", "CPU", "CUDA", "ROCM", "CoreML", "DirectML"):
        assert accepted(name), name


def accepted(provider: str) -> bool:
    """Return whether the host takes the loader with ``provider`` in a prompt."""
    node = load_nodes.PuLIDFluxLoadInsightFace
    inputs = {
        "model_pack": "antelopev2",
        "provider": provider,
        "parsing_model": "parsing_bisenet.pth",
        "landmarks": "model pack",
    }
    prompt = {"1": {"class_type": "Faces", "inputs": inputs}}
    known = {"Faces": node}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", known)
        valid, errors, _ = asyncio.run(execution.validate_inputs("p", prompt, "1", {}))
    return valid and not errors


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        ("cuda:1", "CUDA", {"device_id": "1", "cudnn_conv_algo_search": "HEURISTIC"}),
        ("cuda:0", "CUDA", {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        ("cuda", "MIGraphX", {"device_id": "0"}),
        ("cpu", "CUDA", {"cudnn_conv_algo_search": "HEURISTIC"}),
        ("cuda:1", "DirectML", {}),  # it counts cards in its own order
        ("mps", "CoreML", {}),
    ],
)
def test_an_accelerator_is_comfyuis_own_and_searches_quickly(
    monkeypatch, device, provider, expected
):
    here = torch.device(device)
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: here)
    assert providers.provider_arguments(provider) == {
        "providers": [providers.PROVIDERS[provider], "CPUExecutionProvider"],
        "provider_options": [expected, {}],
    }


def test_sessions_get_those_arguments(files, monkeypatch):
    """They reach onnxruntime through insightface; a session tells what it was made with."""
    import onnxruntime

    asked = []
    make = onnxruntime.InferenceSession.__init__

    def note(self, *args, **kwargs):
        asked.append((kwargs["providers"], kwargs["provider_options"]))
        make(self, *args, **kwargs)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", note)
    offer(monkeypatch, "CUDA")
    load(files, provider="CUDA")
    wanted = providers.provider_arguments("CUDA")
    assert asked == [(wanted["providers"], wanted["provider_options"])] * 2


def test_libraries_are_found_before_cuda_is_asked_for(monkeypatch):
    import onnxruntime

    calls = []
    preload = lambda: calls.append("preload")  # noqa: E731
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    providers.prepare_libraries("CPU")
    assert calls == []
    providers.prepare_libraries("CUDA")
    assert calls == ["preload"]
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    providers.prepare_libraries("CUDA")  # before 1.21 there is none


@pytest.mark.parametrize("name", ["antelopev2", "own"])
def test_the_pack_is_told_by_its_recogniser(files, tmp_path, name):
    assert load(files).notes == ()
    source, pack = files / "antelopev2", tmp_path / name
    pack.mkdir()
    shutil.copy(source / "scrfd_10g_bnkps.onnx", pack / "det_10g.onnx")
    shutil.copy(source / "glintr100.onnx", pack / "w600k_r50.onnx")
    (note,) = sessions.open_sessions(pack, "CPU")[1]
    assert f"{name} is not antelopev2 (its recogniser is w600k_r50.onnx)" in note
    assert "another face space, low likeness" in note
    shutil.copy(source / "glintr100.onnx", pack / "glintr100.onnx")
    assert sessions.open_sessions(pack, "CPU")[1] == ()


def test_the_loader_says_on_the_node_what_runs_and_what_is_odd(files, monkeypatch):
    said = []
    monkeypatch.setattr(load_nodes, "show", lambda node, notes: said.extend(n.text for n in notes))
    by_name = {"pack": files / "antelopev2", "parser": files / "parsing_bisenet.pth"}
    monkeypatch.setattr(load_nodes.folders, "find", lambda kind, name: by_name[name])
    node = load_nodes.PuLIDFluxLoadInsightFace
    node.execute("pack", "auto", "parser", "model pack")
    offer(monkeypatch, "CUDA")
    node.execute("pack", "CUDA", "parser", "model pack")
    assert said[:2] == ["Face models on CPU"] * 2
    assert said[2].startswith("onnxruntime offers CUDA but could not start it")


def test_a_nested_pack_is_found(files, tmp_path):
    nested = tmp_path / "antelopev2" / "antelopev2"
    shutil.copytree(files / "antelopev2", nested)
    assert sessions.FaceSessions(tmp_path / "antelopev2", "CPU").pack == nested


def test_a_pack_with_other_file_names_works(files, tmp_path):
    source, pack = files / "antelopev2", tmp_path / "own"
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
def test_a_pack_lacking_one_model_tells_which(files, tmp_path, kept, missing):
    shutil.copy(files / "antelopev2" / kept, tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{missing}.*Found: {kept}"):
        sessions.open_sessions(tmp_path, "CPU")


@pytest.mark.parametrize("damage", ["cut", "page", "empty", "pointer"])
def test_a_damaged_onnx_file_is_named_with_its_size(files, tmp_path, damage):
    pack = shutil.copytree(files / "antelopev2", tmp_path / "antelopev2")
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
        load(tmp_path, provider="CPU")
    assert "260.7 MB" in str(e.value)


def test_files_that_are_not_the_published_ones_are_a_warning(files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        sessions.open_sessions(files / "antelopev2", "CPU")
    assert caplog.text.count("is not the published antelopev2 file") == 2
    caplog.clear()
    own = shutil.copytree(files / "antelopev2", tmp_path / "mine")
    sessions.open_sessions(own, "CPU")
    assert not caplog.text


def test_wrong_and_damaged_torch_files_are_named(files, tmp_path):
    retina, parser = files / "detection_Resnet50_Final.pth", files / "parsing_bisenet.pth"
    with pytest.raises(ValueError, match=r"Resnet50_Final.pth is not a face parsing model"):
        parsing.load_parser(retina)
    with pytest.raises(ValueError, match=r"parsing_bisenet.pth is not a RetinaFace model"):
        landmarks.load_landmarks(parser)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(parser.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut.pth.*truncated.*1000 bytes.*about 53 MB"):
        parsing.load_parser(cut)
    with pytest.raises(ValueError, match=r"cut.pth.*truncated.*1000 bytes.*about 109 MB"):
        landmarks.load_landmarks(cut)
    with pytest.raises(FileNotFoundError, match="none.pth"):
        parsing.load_parser(tmp_path / "none.pth")
    tensors = torch.load(retina, weights_only=True)
    del tensors["module.fpn.merge1.0.weight"]
    torch.save(tensors, cut)
    with pytest.raises(ValueError, match=r"lacks module.fpn.merge1.0.weight"):
        landmarks.load_landmarks(cut)


# Detection


def test_the_portrait_has_one_face_where_it_is(analysis):
    (face,) = detect_faces(analysis, astronaut())
    assert face.score > 0.9
    assert overlap(face.box, np.array([178, 63, 269, 174])) > 0.9
    inside = (face.keypoints > face.box[:2]) & (face.keypoints < face.box[2:])
    assert inside.all()
    assert face.photo_size == (512, 512)


@pytest.mark.parametrize("share", detection.SHARES)
def test_every_share_of_the_canvas_gives_the_same_box(analysis, monkeypatch, share):
    monkeypatch.setattr(detection, "SHARES", (share,))
    photo = np.pad(astronaut(), ((0, 0), (90, 0), (0, 0)))
    (face,) = detect_faces(analysis, photo)
    assert overlap(face.box, np.array([268, 63, 359, 174])) > 0.7


def test_a_face_that_fills_the_frame_is_found_by_a_retry(analysis, monkeypatch):
    photo = np.ascontiguousarray(astronaut()[97:156, 197:248])
    (face,) = detect_faces(analysis, photo)
    eye_and_mouth = face.keypoints[[0, 4]] + [197, 97]
    assert abs(eye_and_mouth - [[201.6, 105.5], [242.4, 145.4]]).max() < 8
    monkeypatch.setattr(detection, "SHARES", (1.0,))
    assert detect_faces(analysis, photo) == []


@pytest.mark.parametrize("shape", [(8, 8), (1, 900), (900, 1), (400, 600)])
def test_pictures_without_a_face_give_none(analysis, shape):
    assert detect_faces(analysis, np.full((*shape, 3), 255, np.uint8)) == []


def test_fifty_faces_are_found_and_ordered(analysis):
    faces = order_faces(detect_faces(analysis, crowd()), "topmost")
    assert len(faces) == 50
    assert [int(f.centre[1] // 100) for f in faces] == [i // 10 for i in range(50)]


def box(x: float, y: float, side: float, score: float = 0.5) -> Face:
    corners = np.array([x - side, y - side, x + side, y + side]) / 1.0
    return Face(corners, score, np.zeros((5, 2)), (100, 100))


def test_each_order_sorts_by_its_own_measure():
    faces = [box(10, 80, 5, 0.6), box(55, 45, 3, 0.7), box(90, 30, 9, 0.9)]
    expected = {
        "largest": [2, 0, 1],
        "smallest": [1, 0, 2],
        "leftmost": [0, 1, 2],
        "rightmost": [2, 1, 0],
        "topmost": [2, 1, 0],
        "bottommost": [0, 1, 2],
        "most central": [1, 2, 0],
        "best score": [2, 1, 0],
    }
    assert set(expected) == set(FACE_ORDERS)
    for order, indices in expected.items():
        found = order_faces(faces, order)
        assert [faces.index(face) for face in found] == indices, order
        assert [faces.index(f) for f in order_faces(faces[::-1], order)] == indices, order
    with pytest.raises(ValueError, match=r"'biggest'.*largest"):
        order_faces(faces, "biggest")


# Alignment


def test_the_matrix_is_the_authors():
    manifest = json.loads((GOLDEN / "eva_manifest.json").read_text())
    matrix = align.crop_matrix(np.array(manifest["kps"]))
    np.testing.assert_allclose(matrix, manifest["affine"], rtol=0, atol=1e-3)


def test_the_crop_is_the_authors():
    manifest = json.loads((GOLDEN / "eva_manifest.json").read_text())
    crop = align.warp(astronaut(), align.crop_matrix(np.array(manifest["kps"])))
    expected = np.array(Image.open(GOLDEN / "aligned_face.png")).astype(int)
    assert abs(crop - expected).max() <= 4  # OpenCV's versions differ by so much, 4.11 the most


def test_beyond_the_photo_the_crop_is_the_authors_grey():
    crop = align.warp(np.zeros((4, 4, 3), np.uint8), np.array([[1.0, 0, 600], [0, 1, 600]]))
    assert crop[0, 0].tolist() == [132, 133, 135]


def test_points_that_coincide_are_refused():
    with pytest.raises(ValueError, match="cannot be aligned"):
        align.crop_matrix(np.full((5, 2), 7.0))


def test_retinaface_is_matched_by_overlap_not_by_centre(files, analysis):
    """The stand-in sees a face at every place; the one over the chosen face gives the points."""
    fine = with_retinaface(files)
    photo = astronaut()
    (face,) = detect_faces(fine, photo)
    seen = landmarks.landmark_faces(fine.landmarks, photo)
    assert len(seen) > 10
    points = landmarks.matching_keypoints(face, seen)
    best = max(seen, key=lambda one: overlap(one.box, face.box))
    assert np.array_equal(points, best.keypoints)
    assert ((points > face.box[:2] - 64) & (points < face.box[2:] + 64)).all()
    # The crop that follows differs from the pack's own, and both hold the face's middle.
    assert not np.array_equal(align_face(fine, photo, face), align_face(analysis, photo, face))


def test_without_overlap_the_faces_own_points_align_it(caplog):
    face, neighbour = box(20, 20, 9), box(60, 20, 9)
    with caplog.at_level(logging.WARNING):
        assert landmarks.matching_keypoints(face, [neighbour]) is face.keypoints
        assert landmarks.matching_keypoints(face, []) is face.keypoints
    assert "did not find the chosen face" in caplog.text


def test_a_face_that_only_retinaface_found_is_recognised_from_the_crop(files, analysis):
    fine = with_retinaface(files)
    blank = np.full((512, 512, 3), 120, np.uint8)
    assert detect_faces(analysis, blank) == []
    faces = detect_faces(fine, blank)
    assert faces
    assert all(face.landmarks_only for face in faces)
    assert {tuple((face.box[2:] - face.box[:2]).round()) for face in faces} == {(128.0, 128.0)}
    crop = align_face(fine, astronaut(), faces[0])
    vector = face_vector(fine.sessions, astronaut(), faces[0], crop)
    small = np.array(Image.fromarray(crop).resize((112, 112), Image.Resampling.BILINEAR))
    direct = fine.sessions.get("recognition").get_feat(small[:, :, ::-1]).flatten()
    assert vector.shape == (512,)
    cosine = vector @ direct / np.linalg.norm(vector) / np.linalg.norm(direct)
    assert cosine > 0.9


def test_overlap_of_boxes():
    assert overlap(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
    assert overlap(np.array([0, 0, 2, 2]), np.array([2, 0, 3, 2])) == 0
    assert overlap(np.zeros(4), np.zeros(4)) == 0


# Parsing


def test_labels_follow_the_picture(analysis):
    """The stand-in calls blue background; a swap of red and blue, or of sides, would show."""
    face = torch.zeros(1, 512, 512, 3)
    face[:, :, :256, 2] = 1.0
    face[:, :, 256:, 0] = 1.0
    labels = parsing.parse_faces(analysis.parser, face)
    assert labels.shape == (1, 512, 512)
    assert (labels[:, :, :224] == 0).all()
    assert (labels[:, :, 288:] == 1).all()


# Memory


def test_on_the_cpu_sessions_live_until_the_loaders_output_dies(files):
    """No run, and nothing that the host unloads, ends them; the last reference does, at once."""
    analysis = load(files)
    faces.face_features(analysis, small_eva(files), portrait())
    detect_faces(analysis, astronaut())
    comfy.model_management.unload_all_models()
    analysis.sessions.rest()
    assert analysis.sessions.loads == 1
    alive = [weakref.ref(model.session) for model in analysis.sessions.models.values()]
    assert len(alive) == 2 and all(one() for one in alive)
    del analysis
    assert not any(one() for one in alive)


def test_on_an_accelerator_encoding_ends_the_sessions_and_nothing_else(files, monkeypatch):
    """The memory of onnxruntime is beyond the host's reach; all other models are the host's."""
    analysis, eva = load(files), small_eva(files)
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


def small_eva(files: Path) -> EvaClip:
    return load_eva_clip(files / EVA_FILE)


def portrait() -> torch.Tensor:
    return torch.from_numpy(astronaut())[None] / 255


def test_loading_draws_no_random_numbers(files):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with_retinaface(files)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


# Packages

BLOCKED = """
import sys
from pathlib import Path

class Without:
    # A finder that finds nothing of the blocked packages, as if they were not installed.
    blocked = set()

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        return None if name.split(".")[0] in self.blocked else self.finder.find_spec(name, *args)

    def __getattr__(self, name):
        return getattr(self.finder, name)

TESTS, FILES = sys.argv[1:]
every = {"open_clip", "timm", "insightface", "onnxruntime", "facexlib", "cv2"}
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
Without.blocked = every
sys.path.insert(0, TESTS)
import conftest
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.faces import load_face_analysis

files = Path(FILES)
calls = {
    "timm": lambda: load_eva_clip(files / "any.pt"),
    "faces": lambda: load_face_analysis(files / "antelopev2", "CPU", files / "parsing_bisenet.pth"),
}
# Each package is blocked until it was asked for in vain, so none has been imported before.
for blocked, call in (
    (every, "timm"),
    ({"open_clip"}, "timm"),
    (every, "faces"),
    ({"onnxruntime"}, "faces"),
    ({"cv2"}, "faces"),
    ({"facexlib"}, "faces"),
):
    Without.blocked = blocked
    try:
        calls[call]()
    except RuntimeError as error:
        print(error)
Without.blocked = set()
print(calls["faces"]().provider)
"""


def test_a_missing_package_is_named_with_the_install_line(files):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(Path(__file__).parent), str(files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("    python ")]
    assert lines == [
        "python -m pip install timm",
        "python -m pip install open_clip_torch",
        "python -m pip install insightface",
        "python -m pip install insightface onnxruntime",
        "python -m pip install insightface opencv-python",
        "python -m pip install facexlib",
    ]
    assert done.stdout.splitlines()[-1] == "CPU"
