"""Identity files: every bit comes back, what is none is named; names, previews, blends."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pulid_pack.identity import files
from pulid_pack.identity.blending import blend, slerp, spherical_mix
from pulid_pack.identity.files import checked_name, load_identity, save_identity, small_picture
from pulid_pack.identity.identity import FaceVectors, Identity
from safetensors.torch import save_file
from standins.lab import person

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's


def test_a_file_brings_back_every_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    preview = torch.rand(300, 500, 3)
    save_identity(person(1), path, preview=preview)
    found, picture = load_identity(path)
    assert torch.equal(found.id_tokens, person(1).id_tokens)
    assert torch.equal(found.uncond_id_tokens, person(1).uncond_id_tokens)
    assert picture.shape == (154, 256, 3) and picture.min() >= 0 and picture.max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def faces(seed: int, photos: int = 1, recogniser: str = "glintr100.onnx") -> FaceVectors:
    """Return random face vectors, of the length that a recogniser gives."""
    draw = torch.Generator().manual_seed(seed)
    return FaceVectors(20 * torch.randn(photos, 512, generator=draw), recogniser, "antelopev2")


def test_face_vectors_come_back_exactly_in_every_precision(tmp_path):
    known = replace(person(1), faces=faces(1, photos=3))
    for dtype in (torch.float32, torch.float16):
        save_identity(known, tmp_path / "a.safetensors", dtype)
        found = load_identity(tmp_path / "a.safetensors")[0].faces
        assert torch.equal(found.vectors, known.faces.vectors)
        assert (found.recogniser, found.pack) == ("glintr100.onnx", "antelopev2")


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_file_without_face_vectors_stays_readable(tmp_path, version):
    path = tmp_path / "a.safetensors"
    save_file(GOOD, path, metadata=FORMAT | {"version": version})
    identity, _ = load_identity(path)
    assert identity.faces is None and identity.family == "flux"
    save_identity(identity, path)
    assert load_identity(path)[0].faces is None


def test_half_precision_is_half_the_size(tmp_path):
    for name, dtype in (("a", torch.float32), ("b", torch.float16)):
        save_identity(person(1), tmp_path / f"{name}.safetensors", dtype)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]
    found, _ = load_identity(tmp_path / "b.safetensors")
    torch.testing.assert_close(found.id_tokens, person(1).id_tokens, rtol=1e-3, atol=1e-3)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_identity(person(1), path)
    before = path.read_bytes()
    broken = Identity(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, device="meta"))
    with pytest.raises(Exception):  # noqa: B017  whatever the writer says
        save_identity(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


GOOD = {"id_tokens": torch.zeros(1, 32, 8), "uncond_id_tokens": torch.zeros(1, 32, 8)}


FORMAT = {"format": "pulid-flux-identity", "version": "1"}
KNOWN = {**FORMAT, "version": "2", "recogniser": "glintr100.onnx"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        (GOOD, {}, "not an identity file"),
        (GOOD, {**FORMAT, "version": "3"}, "version are pulid-flux-identity and 3"),
        (
            GOOD,
            {**FORMAT, "version": "2", "family": "sd15"},
            "its family is sd15, expected one of flux",
        ),
        ({"id_tokens": GOOD["id_tokens"]}, FORMAT, "'uncond_id_tokens' is missing"),
        ({**GOOD, "id_tokens": torch.zeros(32, 8)}, FORMAT, r"shape \[32, 8\]"),
        ({**GOOD, "id_tokens": torch.zeros(2, 32, 8)}, FORMAT, r"shape \[2, 32, 8\]"),
        ({**GOOD, "id_tokens": torch.zeros(1, 32, 9)}, FORMAT, "different widths"),
        ({**GOOD, "id_tokens": torch.zeros(1, 32, 8).int()}, FORMAT, "int32"),
        ({**GOOD, "id_tokens": torch.full((1, 32, 8), torch.nan)}, FORMAT, "not numbers"),
        ({**GOOD, "face_vectors": torch.ones(1, 512)}, FORMAT, "of recogniser None"),
        ({**GOOD, "face_vectors": torch.ones(512)}, KNOWN, r"they have shape \[512\]"),
        ({**GOOD, "face_vectors": torch.full((1, 9), torch.inf)}, KNOWN, "are damaged"),
        ({**GOOD, "face_vectors": torch.ones(1, 512).int()}, KNOWN, "are damaged"),
    ],
)
def test_a_file_that_is_no_identity_is_named(tmp_path, tensors, metadata, words):
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=words) as error:
        load_identity(path)
    assert str(path) in str(error.value)


def test_a_corrupt_file_is_named_with_its_size(tmp_path):
    path = tmp_path / "a.safetensors"
    save_identity(person(1), path)
    whole = path.read_bytes()
    for size in (0, 5, 50, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{size} bytes|{size:,} bytes"):
            load_identity(path)
    with pytest.raises(FileNotFoundError):
        load_identity(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "..",
        "a/b",
        "a\\b",
        "C:x",
        "a\0b",
        "x" * 300,
        "",
        "  ",
        ".x",
        "x.",
        "nul",
        "Com1",
        "lpt9",
    ],
)
def test_a_name_cannot_leave_the_folder(name):
    with pytest.raises(ValueError):
        checked_name(name)


@pytest.mark.parametrize(
    "name", ["anna", "Anna 2", "ánna-ß", "安娜", "anna.safetensors", "com0", "lpt10"]
)
def test_ordinary_names_are_taken(name):
    assert checked_name(name) == name.removesuffix(".safetensors")


def test_blend_linear_is_the_weighted_mean():
    found = blend([person(1), person(2)], [1.0, 3.0], spherical=False)
    expected = 0.25 * person(1).id_tokens + 0.75 * person(2).id_tokens
    torch.testing.assert_close(found.id_tokens, expected)
    assert torch.equal(found.uncond_id_tokens, person(1).uncond_id_tokens)


@pytest.mark.parametrize("spherical", [True, False])
def test_the_face_of_a_blend_is_the_weighted_mean_of_directions(spherical):
    x, y, z = 20 * torch.eye(3)
    one = replace(person(1), faces=FaceVectors(torch.stack([x, 5 * y]), "a.onnx", "a"))
    other = replace(person(2), faces=FaceVectors(z[None], "a.onnx", "b"))
    found = blend([one, other], [1.0, 3.0], spherical).faces
    half = 2**-0.5
    torch.testing.assert_close(found.vectors, torch.tensor([[half / 4, half / 4, 0.75]]))
    assert (found.recogniser, found.pack) == ("a.onnx", "a")


def test_a_blend_has_no_face_where_one_is_unknown_or_of_another_recogniser():
    one = replace(person(1), faces=faces(1))
    others = [person(2), replace(person(2), faces=faces(2, recogniser="w600k_r50.onnx"))]
    opposite = replace(person(2), faces=replace(one.faces, vectors=-one.faces.vectors))
    for other in (*others, opposite):
        assert blend([one, other], [1.0, 1.0], False).faces is None


def test_blend_spherical_keeps_the_length():
    a, b = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    found = blend([Identity(a, a), Identity(b, a)], [1.0, 1.0], spherical=True).id_tokens
    # half-way on the circle: 45 degrees, and the mean length 3
    torch.testing.assert_close(found, torch.full((1, 1, 2), 3 / 2**0.5))
    for share, expected in ((0.0, b), (1.0, a)):
        ends = blend([Identity(a, a), Identity(b, a)], [share, 1 - share], spherical=True)
        torch.testing.assert_close(ends.id_tokens, expected)


@pytest.mark.parametrize("spherical", [True, False])
def test_blend_of_an_identity_with_itself(spherical):
    found = blend([person(1)] * 3, [1.0, 2.0, 0.5], spherical)
    torch.testing.assert_close(found.id_tokens, person(1).id_tokens)


def test_blend_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="32 tokens of 96, 64 tokens of 96"):
        blend([person(1), person(2, tokens=64)], [1, 1], True)
    more = replace(person(2), uncond_id_tokens=torch.zeros(1, 64, 96))  # of photos side by side
    with pytest.raises(ValueError, match="32 unconditional tokens of 96, 64 unconditional"):
        blend([person(1), more], [1, 1], True)
    other = replace(person(2), family="sdxl-v1.1")
    with pytest.raises(ValueError, match="PuLID-FLUX and PuLID-SDXL v1.1"):
        blend([person(1), other], [1, 1], True)
    with pytest.raises(ValueError, match="add up to 0"):
        blend([person(1), person(2)], [1, -1], False)


def test_a_preview_is_kept_as_bytes_and_not_longer_than_256():
    long = small_picture(torch.full((512, 300, 4), 0.5))
    assert long.shape == (256, 150, 3) and long.dtype == torch.uint8 and (long == 128).all()
    assert small_picture(torch.zeros(2, 2000, 3)).shape == (1, 256, 3)
    values = torch.tensor([-1.0, 0.0, 0.1, 0.3, 1.0, 2.0]).view(1, 2, 3)
    assert small_picture(values).flatten().tolist() == [0, 0, 26, 76, 255, 255]
    exact = torch.arange(256 * 3).remainder(256).view(1, 256, 3)
    assert torch.equal(small_picture(exact / 255), exact.to(torch.uint8))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_slerp_goes_its_share_of_the_angle_and_of_the_length(share):
    a, b = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    angle, length = share * math.pi / 2, 2 + 2 * share
    expected = [length * math.cos(angle), length * math.sin(angle)]
    assert slerp(a, b, share).flatten().tolist() == pytest.approx(expected, abs=1e-5)
    # opposite directions have no circle between them: straight through
    found = slerp(a, -2 * a, share).flatten().tolist()
    assert found == pytest.approx([(1 - 2 * share) * length, 0], abs=1e-5)


def test_three_identities_are_mixed_one_after_the_other():
    one = torch.eye(3)[None]
    mixed = spherical_mix([one[:, :1], one[:, 1:2], one[:, 2:]], [0.25, 0.25, 0.5])
    expected = [math.cos(math.pi / 4) / math.sqrt(2)] * 2 + [math.sin(math.pi / 4)]
    assert mixed.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    # shares that cancel out on the way: half-way
    half = spherical_mix([one[:, :1], one[:, 1:2], one[:, 2:]], [1.0, -1.0, 1.0])
    assert half.flatten().tolist() == pytest.approx([0, 0, 1], abs=1e-6)


def test_a_long_name_is_cut_in_the_message_at_sixty_characters():
    for length, shown in ((60, "'" + "a" * 59 + ":'"), (61, "'" + "a" * 60 + "…'")):
        with pytest.raises(ValueError) as error:
            checked_name("a" * (length - 1) + ":")
        assert str(error.value).startswith(shown)


def test_an_unfinished_file_has_both_ends_of_an_unfinished_name(tmp_path, monkeypatch):
    """What is left of a write that was cut off is known by them, and cleared away."""
    seen = []
    monkeypatch.setattr(files.os, "replace", lambda old, new: seen.append(Path(old).name))
    files.write_whole(b"", tmp_path / "a", True)
    assert seen[0].startswith(files.LEFTOVER[0]) and seen[0].endswith(files.LEFTOVER[1])
