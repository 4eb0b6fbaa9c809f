"""A prompt, and the same with another weight, under the flags that people start ComfyUI with."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from standins.server import TEXT_ENCODER_PACK, WORKFLOWS, node_of, set_inputs

pytestmark = pytest.mark.server
# flags that do not exclude each other share a server, which takes its time to start
FLAGS = (
    ("--cache-none", "--fast"),
    ("--cache-lru", "4", "--force-fp16"),
    ("--cache-ram", "--disable-smart-memory"),
)


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_an_identity_is_drawn(host, models, tmp_path, flags):
    import skimage.data
    from serving import Server

    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    prompt = json.loads((WORKFLOWS / "api" / "flux_pulid_basic.json").read_text("utf-8"))
    set_inputs(prompt, "KSampler", steps=2)
    set_inputs(prompt, "EmptySD3LatentImage", width=192, height=128)
    pictures = []
    with Server(host, models, [TEXT_ENCODER_PACK], arguments=flags) as server:
        set_inputs(prompt, "LoadImage", image=server.upload(tmp_path / "astronaut.png"))
        for weight in (0.0, 1.0, 1.0):
            set_inputs(prompt, "PuLIDFluxApply", weight=weight)
            set_inputs(prompt, "KSampler", denoise=1.0)
            result = server.queue(prompt)
            assert result.error is None, result.error["exception_message"]
            images = result.images(node_of(prompt, "SaveImage"))
            if images:  # nothing new is saved where all of it is cached
                file = io.BytesIO(server.image(images[0]))
                pictures.append(np.asarray(Image.open(file).convert("RGB")).astype(float))
    plain, shown, *again = pictures
    assert plain.shape == shown.shape == (128, 192, 3)
    assert shown.std(axis=(0, 1)).max() > 5, "one flat colour"
    assert np.abs(shown - plain).mean() > 1, "no identity"
    assert all(np.array_equal(picture, shown) for picture in again)
    assert len(again) == ("--cache-none" in flags)
