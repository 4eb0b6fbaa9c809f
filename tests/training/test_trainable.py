"""ComfyUI's FLUX under autograd: exact gradients, and not a bit of it changed afterwards."""

from __future__ import annotations

from contextlib import contextmanager

import comfy.ldm.flux.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import pytest
import torch
from pulid_pack.training.samples import Conditions, Features
from pulid_pack.training.trainable import base_of, trainable
from standins.flux import TEXT_POOLED, TEXT_WIDTH, random_weights
from standins.lab import sample, small_flux
from standins.shapes import shapes_of
from standins.training import KINDS, errors, noise, photos, random_adapter

DEPTHS = {"depth": 3, "depth_single": 5}  # identity after double 0, 2 and single 0, 4
EXACT = 1e-6
SIZE = (4, 6)


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode, as training does."""


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode(False):
        return small_flux(**DEPTHS)


def small_chroma():
    """Return a narrow Chroma; its loader knows one width only."""
    sizes = {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64}
    sizes |= {"context_in_dim": 48, "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2}
    sizes |= {"depth": 3, "depth_single_blocks": 5, "axes_dim": [4, 6, 6], "theta": 10000}
    sizes |= {"patch_size": 2, "qkv_bias": True, "out_dim": 32, "hidden_dim": 64, "n_layers": 2}
    sizes |= {"txt_ids_dims": [], "vec_in_dim": None}
    return in_memory(comfy.supported_models.Chroma, comfy.model_base.Chroma, sizes)


def small_flux_2():
    """Return a FLUX.2: shared modulation, gated MLPs, no biases, references by their index."""
    if not hasattr(comfy.model_base, "Flux2"):
        pytest.skip("this ComfyUI has no FLUX.2")
    sizes = {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None}
    sizes |= {"context_in_dim": 48, "hidden_size": 32, "mlp_ratio": 3.0, "num_heads": 2}
    sizes |= {"depth": 3, "depth_single_blocks": 5, "axes_dim": [4] * 4, "theta": 2000}
    sizes |= {"patch_size": 1, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3]}
    sizes |= {"global_modulation": True, "mlp_silu_act": True, "ops_bias": False}
    sizes |= {"default_ref_method": "index", "ref_index_scale": 10.0}
    known = comfy.ldm.flux.model.FluxParams.__dataclass_fields__
    sizes = {k: v for k, v in sizes.items() if k in known or k == "image_model"}
    return in_memory(comfy.supported_models.Flux2, comfy.model_base.Flux2, sizes)


def in_memory(config, kind, sizes):
    """Return a model of these sizes with random weights, as ComfyUI holds it."""
    config = config(sizes)
    config.set_inference_dtype(torch.float32, None)
    base = kind(config, device="cpu")
    shapes = shapes_of(type(base.diffusion_model), **config.unet_config)
    weights = random_weights(shapes, torch.Generator().manual_seed(1))
    base.diffusion_model.load_state_dict(weights)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device)


def text(width: int = TEXT_WIDTH, **more) -> Conditions:
    """Return the conditions of two pictures with eight text tokens."""
    pooled = noise(2, TEXT_POOLED, seed=11) if width == TEXT_WIDTH else None
    return Conditions(noise(2, 8, width, seed=12), pooled, **more)


class Case:
    """One forward of a model with an adapter, as a loss to be checked."""

    def __init__(self, base, cond: Conditions, weight=0.8, channels: int = 16):
        self.base, self.weight = base, weight
        self.adapter = random_adapter(base.model).double()
        self.photos = photos()
        self.x = noise(2, channels, *SIZE).requires_grad_()
        self.target = noise(2, channels, *SIZE, seed=9)
        self.sigma = torch.tensor([0.7, 0.4])
        self.cond = base.prepare(cond, self.x)

    def out(self, features=None):
        identity = self.adapter.identity(self.adapter.tokens(*self.photos), self.weight)
        return self.base(self.x, self.sigma, self.cond, identity, features)

    def loss(self):
        return (self.out() - self.target).square().mean()

    def groups(self):
        """Return the parameters of the layers and of the encoder, and the input."""
        parts = {"layers": self.adapter.pulid_ca, "encoder": self.adapter.pulid_encoder}
        return {name: list(part.parameters()) for name, part in parts.items()} | {"x": [self.x]}


@contextmanager
def exact(model, recompute=True):
    """Make a model trainable in float64, its rotation by position too: the host's is float32."""
    with trainable(model, torch.float64, recompute) as base:
        hook = base.net.pe_embedder.register_forward_hook(lambda _, a, out: out.double())
        try:
            yield base
        finally:
            hook.remove()


def worst(case) -> float:
    return max(errors(case.loss, case.groups()).values())


MASK = {
    "attention_mask": torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(1)),
    "attention_mask_img_shape": (2, 3),
}
CASES = {
    "guidance": (text(guidance=2.0), 0.8),
    "references": (text(references=(noise(2, 16, 2, 4, seed=13),)), 0.8),
    "attention mask": (text(more=MASK), 0.8),
    "masked identity": (text(), torch.linspace(0, 1, 12).reshape(2, 6, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_exact(flux, name):
    with exact(flux) as base:
        assert worst(Case(base, *CASES[name])) < EXACT


def test_the_gradient_of_each_layer_and_each_kind_of_tensor_is_exact(flux):
    """A fault of one weight would be lost among thousands; each is in two small groups here."""
    with exact(flux) as base:
        case = Case(base, text())
        layers = case.adapter.pulid_ca
        groups = {f"layer {i}": list(layer.parameters()) for i, layer in enumerate(layers)}
        for name, _ in layers[0].named_parameters():
            groups[name] = [layer.get_parameter(name) for layer in layers]
        found = errors(case.loss, groups)
    assert len(found) == 4 + 7
    assert max(found.values()) < EXACT


def test_gradients_are_exact_without_recomputation(flux):
    with exact(flux, recompute=False) as base:
        assert worst(Case(base, text())) < EXACT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "fp8"])
def test_gradients_through_frozen_narrow_weights_are_exact(dtype):
    model = small_flux(**DEPTHS, weight_dtype=dtype)
    with exact(model) as base:
        assert worst(Case(base, text())) < EXACT
    assert model.model.diffusion_model.img_in.weight.dtype == dtype


@pytest.mark.parametrize(
    ("make", "channels", "more"),
    [
        (lambda: small_flux(guidance=False, **DEPTHS), 16, {}),
        (lambda: small_flux(in_channels=384, **DEPTHS), 16, {}),
        (small_chroma, 16, {}),
        (small_flux_2, 128, {"reference_latents_method": "index_timestep_zero"}),
    ],
    ids=["schnell", "Fill", "Chroma", "FLUX.2 with a reference"],
)
def test_gradients_of_the_other_models_are_exact(make, channels, more):
    model = make()
    references = (noise(2, channels, 2, 4, seed=13),) if more else ()
    width = model.model.diffusion_model.txt_in.weight.shape[1]
    with exact(model) as base:
        cond = text(width, references=references, more=more)
        assert worst(Case(base, cond, channels=channels)) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_to_features_are_exact(flux, kind):
    """Of all blocks, with references, from recomputed blocks; the recomputation records nothing."""
    with exact(flux) as base:
        case = Case(base, text(references=(noise(2, 16, 2, 4, seed=13),)))
        kept = []

        def loss():
            features = Features(kind)
            case.out(features)
            kept.append(features)
            return sum((features.layer(i)[0] ** 3).mean() for i in range(8))

        # the last layer acts after the last block's input
        groups = {**case.groups(), "layers": list(case.adapter.pulid_ca[:3].parameters())}
        assert max(errors(loss, groups).values()) < EXACT
    features = kept[0]
    assert [tuple(q.shape) for q in features.q] == [(2, 1, 6, 128)] * 8
    assert [tuple(k.shape) for k in features.k] == [(2, 1, 8, 128)] * 8


def test_without_it_the_host_s_blocks_cannot_be_trained(flux, monkeypatch):
    """They write into what their norms have kept for the gradient."""
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    case = Case(base_of(flux), text())
    case.adapter.float()
    case.x, case.target = case.x.detach().float(), case.target.float()
    case.photos = photos(dtype=torch.float32)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        case.loss().backward()


def test_the_host_s_own_checkpointing_is_wrong_without_an_error(flux):
    """Each block is recomputed from an input that it has written to."""
    train = pytest.importorskip("comfy_extras.nodes_train")
    with exact(flux) as base:
        case = Case(base, text())
        right = torch.autograd.grad(case.loss(), list(case.adapter.parameters()))
        blocks = [*base.net.double_blocks, *base.net.single_blocks]
        own = [block.__dict__.pop("forward") for block in blocks]
        try:
            for block in blocks:
                train.patch(block)
            wrong = torch.autograd.grad(case.loss(), list(case.adapter.parameters()))
        finally:
            for block, forward in zip(blocks, own, strict=True):
                train.unpatch(block)
                block.forward = forward
    off = sum((a - b).square().sum() for a, b in zip(wrong, right, strict=True)).sqrt()
    assert off / sum(b.square().sum() for b in right).sqrt() > 1e-3


def state_of(model):
    """Return all that training could leave behind in a model."""
    host = model.model
    modules = dict(host.named_modules())
    tensors = {**dict(host.named_parameters()), **dict(host.named_buffers())}
    return {
        "tensors": {k: (id(t), t.requires_grad) for k, t in tensors.items()},
        "attributes": {k: {n: id(v) for n, v in vars(m).items()} for k, m in modules.items()},
        "hooks": {k: len(m._forward_pre_hooks) for k, m in modules.items()},
        "in training": comfy.model_management.in_training,
        "dtype": host.get_dtype_inference(),
        "inference": torch.is_inference_mode_enabled(),
    }


@pytest.mark.parametrize("fails", [False, True], ids=["", "after an exception"])
@pytest.mark.parametrize("inference", [False, True], ids=["", "loaded in inference mode"])
def test_the_model_is_the_same_to_the_bit_afterwards(fails, inference):
    with torch.inference_mode(inference):
        model = small_flux(**DEPTHS)
        before = sample(model, steps=2)  # loads it
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    state = state_of(model)
    try:
        with torch.inference_mode(inference), exact(model) as base:
            case = Case(base, text())
            case.loss().backward()
            assert all(p.grad is not None for p in case.adapter.parameters())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert state_of(model) == state
    assert all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(sample(model, steps=2), before)


def test_only_the_adapter_has_gradients(flux):
    with trainable(flux) as base:
        assert not any(p.requires_grad for p in base.net.parameters())


def test_other_models_are_refused_by_name():
    model = small_flux(**DEPTHS)
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    with (
        pytest.raises(ValueError, match=r"cannot be trained on this model \(Flux, Linear\)"),
        trainable(model),
    ):
        pass
