"""A prompt without identity, with it, and that again, under flags people start ComfyUI with.

``--cache-ram`` is what ComfyUI does without a flag; the newest page's server has
``--cache-classic``.
"""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from places import WORKFLOWS
from standins.server import TEXT_ENCODER_PACK, node_of, set_inputs

pytestmark = pytest.mark.server
# flags that do not exclude each other share a server, which takes its time to start
FLAGS = (
    ("--cache-none", "--disable-smart-memory", "--fast"),
    ("--cache-lru", "4", "--force-fp16"),
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
            result = server.queue(prompt)
            assert result.error is None, result.error["exception_message"]
            file = server.image(result.images(node_of(prompt, "SaveImage"))[0])
            picture = Image.open(io.BytesIO(file)).convert("RGB")
            pictures.append(np.asarray(picture).astype(float))
    plain, shown, again = pictures
    assert plain.shape == shown.shape == (128, 192, 3)
    assert shown.std(axis=(0, 1)).max() > 5, "one flat colour"
    assert np.abs(shown - plain).mean() > 1, "no identity"
    assert np.array_equal(again, shown)
