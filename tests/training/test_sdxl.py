"""SDXL's UNet under autograd: exact gradients, Q and K of its cross-attention, nothing changed."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from pulid_pack.identity import id_mlp
from pulid_pack.identity.id_former import Sizes
from pulid_pack.training.samples import BLOCKS, Conditions, Features
from pulid_pack.training.trainable import trainable
from standins.sdxl import TINY_LAYERS, sample, small_sdxl, tiny_sdxl
from standins.training import errors, noise, photos, random_adapter
from torch.utils.checkpoint import CheckpointError

EXACT = 1e-6
ENCODER = Sizes(64, 64, 64, 5, 6, 2, 64, 24, 16, 32)
FIRST = id_mlp.Sizes(32, 32, 2, 64, 24, 16)  # v1's encoder


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode, as training does."""


class Case:
    """One forward of a UNet with an adapter, as a loss to be checked."""

    def __init__(self, base, encoder=ENCODER, num_zero=0, projection="none", rows=2):
        self.base = base
        self.adapter = random_adapter(base.model, encoder).double()
        self.adapter.num_zero, self.adapter.projection = num_zero, projection
        self.photos = photos(rows, encoder)
        self.x = noise(rows, 4, 8, 8).requires_grad_()
        self.target = noise(rows, 4, 8, 8, seed=9)
        self.sigma = torch.tensor([2.0, 0.6])[:rows]
        pooled = base.model.model.adm_channels - 6 * 256
        cond = Conditions(noise(rows, 8, 64, seed=12), noise(rows, pooled, seed=11))
        self.cond = base.prepare(cond, self.x)

    def out(self, features=None):
        identity = self.adapter.identity(self.adapter.tokens(*self.photos), 0.8)
        return self.base(self.x, self.sigma, self.cond, identity, features)

    def loss(self):
        return (self.out() - self.target).square().mean()

    def groups(self):
        """Return the parameters of the layers and of the encoder, and the input."""
        adapter = self.adapter
        parts = {"layers": adapter.id_adapter_attn_layers, "encoder": adapter.id_adapter}
        return {name: list(part.parameters()) for name, part in parts.items()} | {"x": [self.x]}


@pytest.fixture(scope="module")
def tiny():
    with torch.inference_mode(False):
        return tiny_sdxl()


@pytest.mark.parametrize(
    ("encoder", "num_zero", "projection"),
    [(ENCODER, 20, "ortho_v2"), (FIRST, 16, "ortho")],
    ids=["v1.1, ortho_v2", "v1, ortho"],
)
def test_gradients_are_exact(tiny, encoder, num_zero, projection):
    with trainable(tiny, torch.float64) as base:
        case = Case(base, encoder, num_zero, projection)
        assert max(errors(case.loss, case.groups()).values()) < EXACT


def test_the_gradient_of_each_layer_is_exact(tiny):
    """A fault of one weight among thousands would be lost in the sum of them."""
    with trainable(tiny, torch.float64) as base:
        case = Case(base, num_zero=8, projection="ortho_v2")
        layers = case.adapter.id_adapter_attn_layers
        found = errors(case.loss, {key: list(layers[key].parameters()) for key in layers})
    assert len(found) == TINY_LAYERS
    assert max(found.values()) < EXACT


def test_gradients_of_the_golden_unet_are_exact():
    """All 70 layers, at the true depths."""
    with trainable(small_sdxl(), torch.float64) as base:
        case = Case(base, num_zero=8, projection="ortho_v2", rows=1)
        assert len(case.adapter.layers) == 70
        every = sum(case.groups().values(), [])
        assert errors(case.loss, {"all": every})["all"] < EXACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=["fp16", "fp8"])
def test_gradients_through_frozen_narrow_weights_are_exact(dtype):
    with trainable(tiny_sdxl(dtype), torch.float64) as base:
        assert base.net.input_blocks[0][0].weight.dtype == dtype
        case = Case(base)
        assert max(errors(case.loss, case.groups()).values()) < EXACT


def test_queries_and_keys_are_attn2_s_own(tiny):
    """Q as it goes into each cross-attention and K of the text, with exact gradients."""
    with trainable(tiny, torch.float64) as base:
        case, seen, kept = Case(base), [], []
        blocks = [m for m in base.net.modules() if isinstance(m, BasicTransformerBlock)]
        for part in ("to_q", "to_k"):
            for block in blocks:
                linear = getattr(block.attn2, part)
                linear.register_forward_hook(lambda m, a, out: seen.append(out))

        def loss():
            seen.clear()
            features = Features(base.features)
            out = case.out(features)
            kept.append((features, list(seen)))
            # the last layer's own weights act after the last query
            return sum((q**3).mean() for q in features.q) + out.square().mean()

        groups = case.groups()
        found = errors(loss, groups)
        for block in blocks:
            block.attn2.to_q._forward_hooks.clear()
            block.attn2.to_k._forward_hooks.clear()
    assert max(found.values()) < EXACT
    features, outs = kept[-1]
    assert len(features.q) == len(features.k) == TINY_LAYERS
    for number, (q, k) in enumerate(zip(features.q, features.k, strict=True)):
        torch.testing.assert_close(q.transpose(1, 2).flatten(2), outs[2 * number])
        torch.testing.assert_close(k.transpose(1, 2).flatten(2), outs[2 * number + 1])


def test_blocks_inputs_are_refused_by_name(tiny):
    """The text's tokens are of another width than the picture's."""
    with trainable(tiny) as base, pytest.raises(RuntimeError, match="nothing of the model's block"):
        case = Case(base)
        case.base(case.x, case.sigma, case.cond, None, Features(BLOCKS))


def test_the_host_s_own_checkpointing_takes_another_layer_s_options(tiny):
    """The host goes on writing into the options that a block has kept for its recomputation."""
    train = pytest.importorskip("comfy_extras.nodes_train")
    with trainable(tiny, torch.float64) as base:
        case = Case(base)
        blocks = [m for m in base.net.modules() if isinstance(m, BasicTransformerBlock)]
        own = [block.__dict__.pop("forward") for block in blocks]
        try:
            for block in blocks:
                train.patch(block)
            with pytest.raises(CheckpointError, match="A different number of tensors"):
                case.loss().backward()
        finally:
            for block, forward in zip(blocks, own, strict=True):
                train.unpatch(block)
                block.forward = forward


@pytest.mark.parametrize("fails", [False, True], ids=["", "after an exception"])
def test_the_model_is_the_same_to_the_bit_afterwards(fails):
    with torch.inference_mode():
        model = tiny_sdxl()
        before = sample(model)
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    ids = {k: id(v) for k, v in model.model.named_parameters()}
    attributes = {k: set(vars(m)) for k, m in model.model.named_modules()}
    try:
        with trainable(model, torch.float64) as base:
            Case(base).loss().backward()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert {k: id(v) for k, v in model.model.named_parameters()} == ids
    assert {k: set(vars(m)) for k, m in model.model.named_modules()} == attributes
    assert not comfy.model_management.in_training
    assert not any(m._forward_pre_hooks for m in model.model.modules())
    assert all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(sample(model), before)
