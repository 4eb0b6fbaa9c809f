"""The face parser: which pixel gets which label."""

from __future__ import annotations

import torch
from pulid_pack.encoders import (
    parsing,
)


def test_labels_follow_the_picture(analysis):
    """The stand-in calls blue background; a swap of red and blue, or of sides, would show."""
    face = torch.zeros(1, 512, 512, 3)
    face[:, :, :256, 2] = 1.0
    face[:, :, 256:, 0] = 1.0
    labels = parsing.parse_faces(analysis.parser, face)
    assert labels.shape == (1, 512, 512)
    assert (labels[:, :, :224] == 0).all()
    assert (labels[:, :, 288:] == 1).all()
