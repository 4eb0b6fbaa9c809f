"""TorchCompileModel around the SDXL hooks: no graph breaks, and one graph for each state."""

from __future__ import annotations

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from pulid_pack.nodes.sdxl import PuLIDSDXLApplyIdentity
from standins.sdxl import sample, someone, tiny_pulid, tiny_sdxl
from torch._dynamo.utils import counters


@pytest.fixture(autouse=True)
def dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


SHALLOW = {
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
}
LAYERS = 1 + 2 + 1  # input, output, middle


@pytest.fixture(scope="module")
def sdxl():
    """Return a UNet with few layers, since each is traced in every test."""
    with torch.inference_mode():
        return tiny_sdxl(**SHALLOW)


def apply(model, start_at=0.0, seed=1, **more):
    settings = (tiny_pulid(layers=LAYERS), someone(seed), "fidelity", 0.8, start_at, 1.0)
    return PuLIDSDXLApplyIdentity.execute(model, *settings, **more)[0]


def compiled(model):
    """Return the model as the host's TorchCompileModel node makes it."""
    model = model.clone(disable_dynamic=True)
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=model, backend="eager", options=options)
    return model


def counted() -> tuple[int, int]:
    """Return graph breaks and graphs."""
    return sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]


def near(found, expected):
    """Compare latents: a compiled graph may sum in another order."""
    assert float((found - expected).abs().max()) <= 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("order", ["apply first", "compile first"])
def test_compiled_gives_the_same_picture(sdxl, order):
    """With a mask, and a window that opens in the middle of the run."""
    settings = {"start_at": 0.5, "attn_mask": torch.tensor([[[1.0, 0.25]]])}
    if order == "apply first":
        model = compiled(apply(sdxl, **settings))
    else:
        model = apply(compiled(sdxl), **settings)
    picture = sample(model, steps=4, cfg=3.0)
    assert counted() == (0, 2)  # closed, and open
    near(picture, sample(apply(sdxl, **settings), steps=4, cfg=3.0))


def test_branches_of_one_compiled_model_do_not_see_each_other(sdxl):
    base = compiled(sdxl)
    first, second = apply(base, seed=1), apply(base, seed=2)
    found = [sample(first), sample(second), sample(base)]
    expected = [sample(apply(sdxl, seed=1)), sample(apply(sdxl, seed=2)), sample(sdxl)]
    for a, b in zip(found, expected, strict=True):
        near(a, b)
