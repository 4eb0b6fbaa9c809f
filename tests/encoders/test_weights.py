"""facexlib's files: wrong and damaged ones are named."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.encoders import (
    landmarks,
    parsing,
)
from pulid_pack.encoders.weights import load_strictly


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


class Counted(torch.nn.Linear):
    """A layer with whole numbers beside its weights."""

    def __init__(self):
        super().__init__(2, 1)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))


def test_weights_are_copied_in_the_dtype_asked_for_and_whole_numbers_stay(tmp_path):
    tensors = {
        k: v.half() if v.is_floating_point() else v for k, v in Counted().state_dict().items()
    }
    model = Counted()
    load_strictly(model, tensors, tmp_path / "a.pth", torch.float32)
    assert (model.weight.dtype, model.steps.dtype) == (torch.float32, torch.int64)
    assert not model.training and not model.weight.requires_grad
    assert model.steps.data_ptr() != tensors["steps"].data_ptr()
    with pytest.raises(ValueError, match="'weight' is torch.int64, not a float"):
        load_strictly(Counted(), {**tensors, "weight": torch.zeros(1, 2).long()}, "a", torch.half)
