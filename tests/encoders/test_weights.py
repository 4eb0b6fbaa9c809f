"""facexlib's files: wrong and damaged ones are named."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.encoders import (
    landmarks,
    parsing,
)


def test_wrong_and_damaged_torch_files_are_named(face_files, tmp_path):
    retina, parser = face_files / "detection_Resnet50_Final.pth", face_files / "parsing_bisenet.pth"
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
    other = {k: v for k, v in tensors.items() if "ClassHead" not in k}  # some other detector
    torch.save(other, cut)
    with pytest.raises(ValueError, match=r"cut.pth is not a RetinaFace model"):
        landmarks.load_landmarks(cut)
    del tensors["module.fpn.merge1.0.weight"]
    torch.save(tensors, cut)
    with pytest.raises(ValueError, match=r"lacks module.fpn.merge1.0.weight"):
        landmarks.load_landmarks(cut)
