"""Photos of every kind become 8-bit RGB, in bands, never larger than 1024 pixels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from pulid_pack.encoders import photo
from pulid_pack.encoders.detection import Face
from pulid_pack.encoders.faces import (
    prepare_photo,
    read_photos,
)
from pulid_pack.nodes import encoding
from torch.utils._python_dispatch import TorchDispatchMode


def test_alpha_lays_the_person_on_white():
    image = torch.zeros(4, 4, 4)
    image[..., 1] = 1.0
    image[:2, :, 3] = 1.0
    photo = prepare_photo(image)
    assert photo[0, 0].tolist() == [0, 255, 0]
    assert photo[3, 3].tolist() == [255, 255, 255]


def test_sixteen_bit_values_are_rounded():
    image = torch.full((2, 2, 3), 1000 / 65535)
    assert prepare_photo(image)[0, 0].tolist() == [4, 4, 4]


@pytest.mark.parametrize("shape", [(4320, 7680), (1025, 700), (3, 6000)])
def test_long_edges_become_1024(shape):
    height, width = shape
    photo = prepare_photo(torch.zeros(*shape, 3))
    assert max(photo.shape[:2]) == 1024
    assert min(photo.shape[:2]) == max(1, round(min(shape) * 1024 / max(shape)))
    assert (photo.shape[0] > photo.shape[1]) == (height > width)


def test_what_the_bands_make_is_what_the_whole_makes(monkeypatch):
    """A photo is converted in bands of rows; the last is shorter, and every channel keeps its."""
    image = torch.rand(37, 23, 4, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    clipped = image.clamp(0, 1)
    colour, alpha = clipped[..., :3], clipped[..., 3:]
    whole = ((colour * alpha + (1 - alpha)) * 255).round().to(torch.uint8)
    monkeypatch.setattr(photo, "BAND", 23 * 4 * 5)  # five rows at a time
    assert np.array_equal(prepare_photo(image), whole.numpy())
    grey = (clipped[..., 1:2].half().float() * 255).round().to(torch.uint8).expand(-1, -1, 3)
    assert np.array_equal(prepare_photo(image[..., 1:2].half()), grey.numpy())
    image[36, 22, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        prepare_photo(image)


class Tensors(TorchDispatchMode):
    """Notes the largest tensor that torch makes, in bytes; a view makes none."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.largest = max(self.largest, made.nbytes)
        return made


def test_a_large_photo_is_never_held_in_float_a_second_time():
    """Both as the face models' photo and as the page's; 8 bits of the whole are all it takes."""
    image = torch.rand(1, 3000, 4000, 3)
    band, page = 4 * photo.BAND, 4 * 1024 * 768 * 3
    for work, most in (
        (lambda: prepare_photo(image[0]), band),
        (lambda: encoding.plain(read_photos(image)), page),
    ):
        tracemalloc.start()
        try:
            with Tensors() as tensors:
                work()
            peak = tracemalloc.get_traced_memory()[1]  # numpy's arrays
        finally:
            tracemalloc.stop()
        assert 0 < tensors.largest <= most
        assert image.nbytes / 4 < peak < image.nbytes * 0.4


def test_small_photos_are_not_enlarged():
    assert prepare_photo(torch.zeros(8, 9, 1)).shape == (8, 9, 3)


BOXES = [(100, 50, 200, 150), (480, 0, 511, 100)]


def test_the_annotated_photo_has_thick_boxes_for_the_chosen_and_labels_inside():
    """512 pixels are two units: the chosen box's lines are four pixels wide, the other's two."""
    grey = np.full((512, 512, 3), 99, np.uint8)
    faces = tuple(Face(np.array(b, float), 0.5, np.zeros((5, 2)), (512, 512)) for b in BOXES)
    drawn = (photo.annotate(grey, faces, 0) * 255).round().int().numpy()
    colours = [(drawn == colour).all(-1) for colour in (photo.CHOSEN, photo.OTHER)]
    for (left, top, right, bottom), there, thick in zip(BOXES, colours, (4, 2), strict=True):
        middle = (top + bottom) // 2
        assert there[middle, left : left + 8].sum() == thick, "lines go inwards from the box"
        assert there[middle, right - 7 : right + 1].sum() == thick
    assert colours[0][40:50, 100:105].any(), "above the first box"
    assert colours[1][2, 470], "the second one's is moved in, and down from the top"
    assert (drawn[20:48, 104:130] == 0).all(-1).any(), "black letters"
    nobody = (photo.annotate(grey, (), None) * 255).round().int().numpy()
    label = np.argwhere((nobody == photo.OTHER).all(-1))
    assert label.min(0).tolist() == [0, 0] and label.max() < 128
