"""The face parser: which pixel gets which label."""

from __future__ import annotations

import pytest
import torch
from facexlib.parsing.bisenet import BiSeNet
from pulid_pack.encoders import parsing


def test_labels_follow_the_picture(analysis):
    """The stand-in calls blue background; a swap of red and blue, or of sides, would show."""
    face = torch.zeros(1, 512, 512, 3)
    face[:, :, :256, 2] = 1.0
    face[:, :, 256:, 0] = 1.0
    labels = parsing.parse_faces(analysis.parser, face)
    assert labels.shape == (1, 512, 512)
    assert (labels[:, :, :224] == 0).all()
    assert (labels[:, :, 288:] == 1).all()


def test_a_picture_is_normalised_as_imagenets_were(analysis):
    """By the mean and the deviation that torchvision's models are trained with."""
    seen = []
    watching = analysis.parser.model.register_forward_pre_hook(lambda _, given: seen.extend(given))
    try:
        parsing.parse_faces(analysis.parser, torch.tensor([0.0, 0.5, 1.0]).expand(1, 512, 512, 3))
    finally:
        watching.remove()
    expected = [(0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert seen[0][0, :, 7, 9].tolist() == pytest.approx(expected, abs=1e-6)


def test_labels_are_those_of_facexlibs_own_network(analysis, face_files):
    """Which also computes the heads that only its training reads."""
    network = BiSeNet(num_class=parsing.CLASSES).eval()
    network.load_state_dict(torch.load(face_files / "parsing_bisenet.pth", weights_only=True))
    face = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v) for v in (parsing.IMAGENET_MEAN, parsing.IMAGENET_STD))
    expected = network(((face - mean) / std).movedim(-1, 1))[0].argmax(1)
    found = parsing.parse_faces(analysis.parser, face)
    assert len(found.unique()) > 1
    assert torch.equal(found, expected)
