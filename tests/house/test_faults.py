"""Damaged and hostile files of every kind that the pack reads end in an error that names them."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pulid_pack.encoders import eva_clip, landmarks, parsing, sessions
from pulid_pack.identity.files import load_identity, save_identity
from pulid_pack.pulid_flux.checkpoint import load_pulid
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from standins.eva import EVA_POOLED, EVA_WIDTH, timm_layout, write_eva_clip
from standins.faces import write_face_pack, write_parsing, write_retinaface
from standins.lab import person
from standins.pulid import write_pulid

NAMED = (ValueError, FileNotFoundError, RuntimeError)
PLACES = 20


@dataclass(frozen=True)
class Sample:
    """A whole file of one kind, and what the pack reads it with."""

    path: Path
    load: Callable[[Path], object]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Sample]:
    """Return a good file of each kind."""
    folder = tmp_path_factory.mktemp("samples")
    pulid = folder / "pulid.safetensors"
    write_pulid(pulid, vit_width=EVA_WIDTH, id_cond_width=512 + EVA_POOLED)
    eva = write_eva_clip(folder)
    original = torch.load(eva, weights_only=True)
    trunk = folder / "open_clip.safetensors"
    save_file(timm_layout(original, "visual.trunk."), trunk)
    identity = folder / "identity.safetensors"
    save_identity(person(1), identity, preview=torch.rand(40, 30, 3))
    write_parsing(folder)
    write_retinaface(folder)
    write_face_pack(folder / "antelopev2")
    old = folder / "old_pickle.pth"  # the format of torch before 1.6, in which old files still come
    tensors = torch.load(folder / "parsing_bisenet.pth", weights_only=True)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)

    def open_onnx(path: Path) -> object:
        return sessions.open_model(path, "CPU")

    return {
        "pulid": Sample(pulid, load_pulid),
        "eva original": Sample(eva, eva_clip.load_eva_clip),
        "eva open_clip": Sample(trunk, eva_clip.load_eva_clip),
        "identity": Sample(identity, load_identity),
        "parsing": Sample(folder / "parsing_bisenet.pth", parsing.load_parser),
        "parsing, old pickle": Sample(old, parsing.load_parser),
        "landmarks": Sample(folder / "detection_Resnet50_Final.pth", landmarks.load_landmarks),
        "detector": Sample(folder / "antelopev2" / "scrfd_10g_bnkps.onnx", open_onnx),
        "recogniser": Sample(folder / "antelopev2" / "glintr100.onnx", open_onnx),
    }


KINDS = (
    "pulid",
    "eva original",
    "eva open_clip",
    "identity",
    "parsing",
    "parsing, old pickle",
    "landmarks",
    "detector",
    "recogniser",
)
SAFETENSORS = ("pulid", "eva open_clip", "identity")
WEIGHTS = ("pulid", "eva original", "eva open_clip", "identity", "parsing", "landmarks")


def refused(sample: Sample, path: Path) -> str:
    """Return the text with which ``path`` is refused; it names the file."""
    with pytest.raises(NAMED) as error:
        sample.load(path)
    assert type(error.value) in NAMED, type(error.value)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_file_is_good(samples, kind):
    assert samples[kind].load(samples[kind].path) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_anywhere(samples, kind, tmp_path):
    sample = samples[kind]
    size = sample.path.stat().st_size
    draw = random.Random(f"cut {kind}")
    path = tmp_path / sample.path.name
    shutil.copy(sample.path, path)
    # always shorter than before, so one copy serves all
    early = [draw.randrange(1, min(size, 4096)) for _ in range(PLACES // 4)]
    places = [draw.randrange(1, size) for _ in range(PLACES - len(early))] + early
    for place in sorted(set(places), reverse=True):
        with path.open("r+b") as file:
            file.truncate(place)
        assert str(path) in refused(sample, path)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_in_place_of_a_file(samples, kind, tmp_path):
    path = tmp_path / samples[kind].path.name
    path.write_bytes(random.Random(f"noise {kind}").randbytes(5000))
    refused(samples[kind], path)


@pytest.mark.parametrize("kind", KINDS)
def test_links(samples, kind, tmp_path):
    """A link to a model elsewhere works, as in ComfyUI; to anything else it is a named error."""
    sample = samples[kind]
    link = tmp_path / sample.path.name
    other = tmp_path / "elsewhere" / "secret.txt"
    other.parent.mkdir()
    other.write_text("the user's own words\n" * 50)
    link.symlink_to(other)
    assert "own words" not in refused(sample, link)
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    refused(sample, link)
    link.unlink()
    link.symlink_to(link.name)  # to itself
    refused(sample, link)
    link.unlink()
    link.symlink_to(other.parent, target_is_directory=True)
    refused(sample, link)
    link.unlink()
    link.symlink_to(sample.path)
    assert sample.load(link) is not None


def test_saving_over_a_link_leaves_what_it_points_to(tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_text("somebody's")
    link = tmp_path / "identities" / "anna.safetensors"
    link.parent.mkdir()
    link.symlink_to(outside)
    save_identity(person(1), link)
    assert outside.read_text() == "somebody's"
    assert not link.is_symlink() and load_identity(link)


HEADERS = {
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "100 MB of nothing": struct.pack("<Q", 100_000_001) + b"{" + b" " * 5000,
    "the largest number": b"\xff" * 8 + b"{}",
    "negative": struct.pack("<q", -5) + b"{}",
    "no JSON": struct.pack("<Q", 8) + b"nonsense",
    "deep JSON": struct.pack("<Q", 20000) + b"[" * 10000 + b"]" * 10000,
    "offsets beyond the file": None,
    "overlapping offsets": None,
}
OFFSETS = {"offsets beyond the file": (0, 2**40), "overlapping offsets": (2**40, 4)}


@pytest.mark.parametrize("kind", SAFETENSORS)
@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_lie(samples, kind, header, tmp_path):
    content = HEADERS[header]
    if content is None:
        begin, end = OFFSETS[header]
        text = f'{{"a":{{"dtype":"F32","shape":[{2**38}],"data_offsets":[{begin},{end}]}}}}'
        content = struct.pack("<Q", len(text)) + text.encode() + bytes(64)
    path = tmp_path / samples[kind].path.name
    path.write_bytes(content)
    refused(samples[kind], path)


def spoiled(sample: Sample, folder: Path, value: float) -> Path:
    """Return a copy of the file with ``value`` in the middle of its largest float tensor."""
    path = folder / sample.path.name
    if path.suffix == ".safetensors":
        tensors = load_file(sample.path)
        with safe_open(sample.path, "pt") as file:
            metadata = file.metadata()
    else:
        tensors = torch.load(sample.path, weights_only=True)
    used = [k for k, v in tensors.items() if v.is_floating_point() and v.numel() > 1]
    key = max(used, key=lambda k: tensors[k].numel())
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[tensors[key].numel() // 2] = value
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_no_numbers(samples, kind, value, tmp_path):
    text = refused(samples[kind], spoiled(samples[kind], tmp_path, value))
    assert "not numbers" in text


@pytest.mark.parametrize("kind", ["eva original", "parsing", "parsing, old pickle", "landmarks"])
def test_code_in_a_pickle_does_not_run(samples, kind, tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (canary.touch, ())

    path = tmp_path / samples[kind].path.name
    torch.save({"a": Bomb()}, path, _use_new_zipfile_serialization="old" not in kind)
    refused(samples[kind], path)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["pulid", "parsing", "eva original"])
@pytest.mark.parametrize("content", [[1, 2], {}, {"a": "text"}, {1: torch.zeros(1)}, None])
def test_a_pickle_of_other_things(samples, kind, content, tmp_path):
    path = tmp_path / "things.pt"
    torch.save(content, path)
    refused(samples[kind], path)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_whole_numbers_in_place_of_weights(samples, kind, tmp_path):
    """A file of integers is refused or read as what it says; it never fails nameless."""
    sample = samples[kind]
    path = tmp_path / sample.path.name
    if path.suffix == ".safetensors":
        with safe_open(sample.path, "pt") as file:
            metadata = file.metadata()
        save_file({k: v.to(torch.int8) for k, v in load_file(sample.path).items()}, path, metadata)
    else:
        tensors = torch.load(sample.path, weights_only=True)
        torch.save({k: v.to(torch.int8) for k, v in tensors.items()}, path)
    assert "int8" in refused(sample, path)
