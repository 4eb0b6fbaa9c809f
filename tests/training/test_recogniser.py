"""The recogniser in torch against onnxruntime and insightface, and the crop with its gradient."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from pulid_pack.encoders.detection import face_vector, find_faces
from pulid_pack.encoders.sessions import open_sessions
from pulid_pack.training import losses
from pulid_pack.training.recogniser import SIDE, TEMPLATE, find_points, load_recogniser, warp
from standins.people import astronaut


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode, as training does."""


@pytest.fixture(scope="module")
def sessions(face_files):
    return open_sessions(face_files / "antelopev2", "CPU")[0]


@pytest.fixture(scope="module")
def recogniser(face_files):
    pytest.importorskip("onnx2torch")
    with torch.inference_mode():  # as in a node
        return load_recogniser(face_files / "antelopev2" / "glintr100.onnx")


@pytest.fixture(scope="module")
def portrait():
    """Return a photo of one person: [1, 3, 512, 512] in 0..1."""
    return torch.from_numpy(astronaut()).movedim(-1, 0)[None].float() / 255


def test_it_is_the_same_function_as_onnxruntime_s(recogniser, sessions):
    draw = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=draw) * 2 - 1
    session = sessions.get("recognition").session
    name = session.get_inputs()[0].name
    wanted = [session.run(None, {name: one[None].numpy()})[0] for one in pixels]
    found = torch.cat([recogniser.net(one[None]) for one in pixels])
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found / scale, np.concatenate(wanted) / scale, atol=2e-5)
    assert (recogniser.mean, recogniser.scale) == (127.5, 127.5)


def test_its_vectors_are_those_of_insightface(recogniser, sessions, portrait):
    """Up to what OpenCV rounds: its warp works in 32nds of a pixel, on bytes."""
    photo = astronaut()
    face = find_faces(sessions, photo)[0]
    wanted = torch.from_numpy(face_vector(sessions, photo, face, photo))[None]
    points, found = find_points(portrait, sessions)
    torch.testing.assert_close(
        points[0].double(), torch.from_numpy(face.keypoints), atol=1e-3, rtol=0
    )
    vectors = recogniser.vectors(portrait, points)
    assert found.tolist() == [1.0]
    assert losses.identity(wanted, vectors).item() < 2e-3
    assert vectors.norm().item() == pytest.approx(wanted.norm().item(), rel=0.02)


def test_the_points_are_laid_on_the_template_as_insightface_does(sessions):
    from insightface.utils.face_align import estimate_norm

    points = torch.tensor(TEMPLATE) * 1.7 + torch.tensor(
        [[3.0, -4], [1, 2], [0, 5], [-2, 1], [4, 0]]
    )
    matrix = torch.from_numpy(estimate_norm(points.numpy()))
    axis = torch.linspace(0, 1, 300, dtype=torch.float64)
    ramps = torch.stack([axis[None].expand(300, -1), axis[:, None].expand(-1, 300)]) * 299
    found = warp(ramps[None], points[None])[0]  # each pixel says where it comes from
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 2, indexing="xy")).double()
    back = torch.linalg.inv(matrix[:, :2])
    wanted = torch.einsum("ij,jhw->ihw", back, grid - matrix[:, 2, None, None])
    inside = ((wanted > 0) & (wanted < 299)).all(0)
    torch.testing.assert_close(found[:, inside], wanted[:, inside], rtol=0, atol=1e-4)
    assert inside.float().mean() > 0.9


def test_the_crop_is_linear_in_the_picture_and_black_outside():
    draw = torch.Generator().manual_seed(1)
    picture = torch.rand(2, 3, 40, 30, generator=draw, dtype=torch.float64, requires_grad=True)
    points = torch.tensor(TEMPLATE)[None] * torch.tensor([0.3, 0.5]).reshape(2, 1, 1)
    crop = warp(picture, points)
    weights = torch.randn(crop.shape, generator=draw, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((crop * weights).sum(), picture)
    other = torch.rand(picture.shape, generator=draw, dtype=torch.float64)
    wanted = (warp(other, points) * weights).sum()
    torch.testing.assert_close((gradient * other).sum(), wanted)
    assert crop[0, :, :, -3:].abs().max() == 0  # 30 pixels wide times 1 / 0.3 is 100


def test_l_id_has_the_gradient_of_finite_differences(recogniser, sessions, portrait):
    """Through the crop and the recogniser, in float64."""
    points, _ = find_points(portrait, sessions)
    photo = recogniser.vectors(portrait.flip(-1), points).double()
    net = recogniser.net.double()
    try:
        picture = portrait.double().requires_grad_()
        loss = losses.identity(photo, recogniser.vectors(picture, points))
        (gradient,) = torch.autograd.grad(loss, picture)
        direction, step = gradient / gradient.norm(), 1e-6  # its PReLUs have kinks
        with torch.no_grad():
            a, b = (
                losses.identity(photo, recogniser.vectors(picture + s * step * direction, points))
                for s in (1, -1)
            )
    finally:
        net.float()
    assert ((a - b) / (2 * step)).item() == pytest.approx(gradient.norm().item(), rel=1e-4)
    assert loss.item() > 0.01


def test_a_picture_without_a_face_has_no_loss(recogniser, sessions, portrait):
    pictures = torch.cat([portrait, torch.full_like(portrait, 0.5)]).requires_grad_()
    points, found = find_points(pictures, sessions)
    assert found.tolist() == [1.0, 0.0]
    vectors = recogniser.vectors(pictures, points)
    loss = losses.identity(torch.ones(2, 512), vectors, found)
    (gradient,) = torch.autograd.grad(loss, pictures)
    assert gradient[0].any() and not gradient[1].any()


def test_a_file_that_is_no_recogniser_is_named(tmp_path):
    pytest.importorskip("onnx2torch")
    path = tmp_path / "glintr100.onnx"
    path.write_bytes(b"nothing of the kind, but long enough to be read")
    with pytest.raises(ValueError, match=r"glintr100\.onnx cannot be read as a face recogniser"):
        load_recogniser(path)
    with pytest.raises(FileNotFoundError, match="Expected a recogniser in ONNX"):
        load_recogniser(tmp_path / "absent.onnx")


def test_a_missing_package_is_named(face_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(RuntimeError, match="requirements-train.txt"):
        load_recogniser(face_files / "antelopev2" / "glintr100.onnx")
