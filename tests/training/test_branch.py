"""The few-step branch against Euler's method written out."""

from __future__ import annotations

import comfy.model_sampling
import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from pulid_pack.training import losses
from pulid_pack.training.branch import align, decode, run
from pulid_pack.training.samples import Conditions
from pulid_pack.training.trainable import frozen, trainable
from standins.flux import TEXT_POOLED, TEXT_WIDTH, random_weights
from standins.lab import small_flux
from standins.sdxl import golden_input, text, tiny_sdxl
from standins.training import KINDS, errors, noise, photos, random_adapter

SIGMAS = [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode, as training does."""


@pytest.fixture(scope="module")
def base():
    with (
        torch.inference_mode(False),
        trainable(small_flux(depth=3, depth_single=5), torch.float64) as base,
    ):
        yield base


@pytest.fixture(scope="module")
def adapter(base):
    return random_adapter(base.model).double()


@pytest.fixture(scope="module")
def start():
    return noise(2, 16, 4, 6)


@pytest.fixture(scope="module")
def cond(base, start):
    conditions = Conditions(noise(2, 8, TEXT_WIDTH, seed=12), noise(2, TEXT_POOLED, seed=11))
    return base.prepare(conditions, start)


def identity_of(adapter, weight=0.8):
    return adapter.identity(adapter.tokens(*photos()), weight)


def by_hand(base, x, cond, identity, first=0):
    """Return the latent after Euler steps, cut off from what was before step ``first``."""
    for step, (now, after) in enumerate(zip(SIGMAS, SIGMAS[1:], strict=False)):
        if step == first:
            x = x.detach()
        v = base(x, torch.full((len(x),), now, dtype=x.dtype), cond, identity)
        x = x + (after - now) * v
    return x


def gradients(latent, adapter, target):
    loss = (latent - target).square().mean()
    return torch.autograd.grad(loss, list(adapter.parameters()))


@pytest.mark.parametrize("last", [4, 2])
def test_the_gradient_goes_through_the_last_steps(base, adapter, start, cond, last):
    """All steps: full autograd. Fewer: autograd from where the last steps begin, another one."""
    target = noise(2, 16, 4, 6, seed=9)
    found = run(base, identity_of(adapter), start, cond, SIGMAS, last)
    wanted = by_hand(base, start, cond, identity_of(adapter), len(SIGMAS) - 1 - last)
    torch.testing.assert_close(found.latent, wanted, rtol=1e-12, atol=1e-12)
    own, right = gradients(found.latent, adapter, target), gradients(wanted, adapter, target)
    for a, b in zip(own, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)
    if last == 4:
        cut = run(base, identity_of(adapter), start, cond, SIGMAS, 3)
        pairs = zip(gradients(cut.latent, adapter, target), own, strict=True)
        off = sum((a - b).square().sum() for a, b in pairs).sqrt()
        assert off / sum(b.square().sum() for b in own).sqrt() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_go_in_lockstep(base, adapter, start, cond, kind):
    """In each step with gradient the features of both are compared; of blocks, all 8."""
    seen = []

    def compare(own, other):
        assert not any(t.requires_grad for t in (*other.q, *other.k))
        assert all(t.requires_grad for t in own.q[1:])  # the first block's input is the noise
        seen.append((own.kind, len(own.q), len(other.q)))
        return align(own, other)

    found = run(base, identity_of(adapter), start, cond, SIGMAS, 3, compare, kind)
    assert seen == [(kind, 8, 8)] * 3
    torch.testing.assert_close(found.without, by_hand(base, start, cond, None))
    assert len(found.compared) == 3


def test_alignment_is_the_mean_of_the_layers(base, adapter, start, cond):
    kept = []
    run(base, identity_of(adapter), start, cond, SIGMAS, 1, lambda *both: kept.append(both))
    own, other = kept[0]
    sem, layout = align(own, other)
    layers = [(own.layer(i)[0], *other.layer(i)) for i in range(8)]
    wanted = sum(losses.semantic_alignment(q_id, q, k) for q_id, q, k in layers) / 8
    torch.testing.assert_close(sem, wanted)
    wanted = sum(losses.layout_alignment(q_id, q) for q_id, q, _ in layers) / 8
    torch.testing.assert_close(layout, wanted)
    for q_id, *_ in layers:  # blocks' inputs come without their mean and length
        torch.testing.assert_close(q_id.mean(-1), torch.zeros(q_id.shape[:-1]).double())
        assert torch.allclose(q_id.var(-1, unbiased=False), torch.ones(1).double(), atol=1e-3)


def test_alignment_is_zero_without_identity_and_not_with_it(base, adapter, start, cond):
    for weight, zero in ((0.0, True), (0.8, False)):
        found = run(base, identity_of(adapter, weight), start, cond, SIGMAS, 1, align)
        sem, layout = found.compared[0]
        assert (sem.item() == 0.0 and layout.item() == 0.0) is zero


@pytest.mark.parametrize("last", [0, 5])
def test_steps_that_do_not_exist_are_refused(base, adapter, start, cond, last):
    with pytest.raises(ValueError, match=f"grad_steps is {last}, expected a number from 1 to 4"):
        run(base, identity_of(adapter), start, cond, SIGMAS, last)


@pytest.mark.parametrize("v", [False, True], ids=["noise", "v prediction"])
def test_sdxl_s_four_steps_are_the_hosts(v):
    """Whether it predicts noise or v, it draws what the host's Euler sampler draws."""
    model = tiny_sdxl()
    if v:
        kinds = comfy.model_sampling
        sampling = type("V", (kinds.ModelSamplingDiscrete, kinds.V_PREDICTION), {})
        model = model.clone()
        model.add_object_patch("model_sampling", sampling(model.model.model_config))
    start = golden_input("noise", (1, 4, 16, 24))
    words, more = text(1)[0]
    with trainable(model) as base, torch.no_grad():
        assert base.kind == ("v" if v else "noise")
        sigmas = base.sigmas(4)
        assert [round(s, 4) for s in sigmas] == [14.6146, 4.0861, 1.6156, 0.6951, 0.0]
        prepared = base.prepare(Conditions(words, more["pooled_output"]), start)
        found = run(base, None, start, prepared, sigmas, 1).latent
    with torch.inference_mode():
        wanted = comfy.sample.sample(
            model, start, 4, 1.0, "euler", "sgm_uniform", text(1), text(2),
            torch.zeros_like(start), disable_pbar=True, seed=1,
        )  # fmt: skip
    scale = wanted.abs().max()
    torch.testing.assert_close(
        model.model.process_latent_out(found) / scale, wanted / scale, rtol=0, atol=1e-5
    )


def test_diffusion_losses_are_zero_for_what_the_model_should_say():
    x0, eps = noise(2, 4, 4, 4), noise(2, 4, 4, 4, seed=8)
    sigma = torch.tensor([0.4, 2.0], dtype=torch.float64)
    s = sigma.reshape(2, 1, 1, 1)
    with trainable(tiny_sdxl()) as base:
        x = base.noised(x0, eps, sigma)
        torch.testing.assert_close(x, x0 + s * eps)
        assert base.diffusion_loss(eps, x0, eps, sigma) == 0
        torch.testing.assert_close(base.denoised(eps, x, sigma), x0)
        base.kind = "v"
        wanted = (eps - s * x0) / (1 + s**2).sqrt()
        assert base.diffusion_loss(wanted, x0, eps, sigma) < 1e-30


def test_decoding_has_exact_gradients_and_draws_what_the_host_decodes(base):
    """Through ComfyUI's own VAE, narrow, its middle attention included, in float64."""
    vae = small_vae()
    latent = noise(1, 16, 4, 6).requires_grad_()
    with frozen(vae.patcher):
        pictures = decode(vae, base, latent)
        weights = noise(1, 3, 32, 48, seed=3)

        def loss():
            return (decode(vae, base, latent) * weights).sum()

        assert errors(loss, {"latent": [latent]}, 1e-6)["latent"] < 1e-6
    with torch.inference_mode():
        wanted = vae.decode(base.model.model.process_latent_out(latent.detach()))
    torch.testing.assert_close(pictures.movedim(1, -1).float(), wanted.float(), rtol=0, atol=1e-5)
    assert ((pictures > 0) & (pictures < 1)).double().mean() > 0.5


def small_vae():
    """Return an autoencoder of FLUX's kind with 32 channels and random weights."""
    sizes = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3}
    sizes |= {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []}
    sizes |= {"dropout": 0.0}
    config = {"params": {"ddconfig": sizes, "embed_dim": 16}}
    shapes = AutoencoderKL(**config["params"]).state_dict()
    weights = random_weights({k: tuple(v.shape) for k, v in shapes.items()}, torch.Generator())
    weights["decoder.conv_out.weight"] *= 0.1  # within the pictures' range
    vae = comfy.sd.VAE(sd=weights, config=config, dtype=torch.float64)
    vae.latent_channels = 16
    return vae
