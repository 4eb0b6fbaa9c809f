"""The losses against formulas written out element by element."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from comfy.model_sampling import time_snr_shift
from pulid_pack.training import losses
from pulid_pack.training.base import FLOW, NOISE
from pulid_pack.training.objective import times


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode: losses are for gradients."""


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax(row):
    exps = [math.exp(x - max(row)) for x in row]
    return [e / sum(exps) for e in exps]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_flow_matching(draw):
    v, x0, noise = draw(2, 3, 4, 4), draw(2, 3, 4, 4), draw(2, 3, 4, 4)
    triples = zip(*(t.flatten().tolist() for t in (v, x0, noise)), strict=True)
    wanted = sum((a - (c - b)) ** 2 for a, b, c in triples) / v.numel()
    assert losses.flow_matching(v, x0, noise).item() == pytest.approx(wanted, rel=1e-12)


def test_flow_matching_is_zero_for_the_true_velocity(draw):
    x0, noise = draw(1, 2, 2, 2), draw(1, 2, 2, 2)
    assert losses.flow_matching(noise - x0, x0, noise).item() == 0.0


def test_noise_prediction(draw):
    found, eps = draw(2, 4, 3, 3), draw(2, 4, 3, 3)
    pairs = zip(found.flatten().tolist(), eps.flatten().tolist(), strict=True)
    wanted = sum((a - b) ** 2 for a, b in pairs) / eps.numel()
    assert losses.noise_prediction(found, eps).item() == pytest.approx(wanted, rel=1e-12)


def test_v_prediction(draw):
    """v = α ε − σ' x0 with α = 1/√(1 + σ²) and σ' = σ α."""
    v, x0, noise = draw(2, 4, 3, 3), draw(2, 4, 3, 3), draw(2, 4, 3, 3)
    sigma = torch.tensor([0.5, 4.0], dtype=torch.float64)
    total = 0.0
    for row, s in enumerate(sigma.tolist()):
        alpha = 1 / math.sqrt(1 + s * s)
        every = zip(*(t[row].flatten().tolist() for t in (v, x0, noise)), strict=True)
        total += sum((a - (alpha * c - s * alpha * b)) ** 2 for a, b, c in every)
    found = losses.v_prediction(v, x0, noise, sigma)
    assert found.item() == pytest.approx(total / v.numel(), rel=1e-12)


@pytest.mark.parametrize("flow", [True, False])
def test_one_step_estimate_undoes_the_noise(draw, flow):
    x0, noise, sigma = draw(2, 3, 4, 4), draw(2, 3, 4, 4), torch.tensor([0.3, 0.8])
    s = sigma.double().reshape(2, 1, 1, 1)
    x = (1 - s) * x0 + s * noise if flow else x0 + s * noise
    found = losses.one_step_estimate(noise - x0 if flow else noise, x, sigma)
    torch.testing.assert_close(found, x0)


def test_identity(draw):
    photo, picture = draw(3, 8), draw(3, 8)
    rows = list(zip(photo.tolist(), picture.tolist(), strict=True))
    each = [1 - dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a, b in rows]
    assert losses.identity(photo, picture).item() == pytest.approx(sum(each) / 3, rel=1e-12)
    found = torch.tensor([1.0, 0.0, 1.0])
    wanted = (each[0] + each[2]) / 2
    assert losses.identity(photo, picture, found).item() == pytest.approx(wanted, rel=1e-12)


def test_identity_without_any_face_is_zero_with_gradient_zero(draw):
    photo, picture = draw(2, 8), draw(2, 8).requires_grad_()
    loss = losses.identity(photo, picture, torch.zeros(2))
    loss.backward()
    assert loss.item() == 0.0
    assert picture.grad.tolist() == torch.zeros(2, 8).tolist()


def test_identity_has_no_gradient_to_the_photo(draw):
    photo, picture = draw(2, 8).requires_grad_(), draw(2, 8).requires_grad_()
    losses.identity(photo, picture).backward()
    assert photo.grad is None
    assert picture.grad.abs().sum() > 0


def test_layout_alignment(draw):
    q_id, q = draw(2, 2, 5, 3), draw(2, 2, 5, 3)
    pairs = zip(q_id.flatten().tolist(), q.flatten().tolist(), strict=True)
    wanted = sum((a - b) ** 2 for a, b in pairs) / q.numel()
    assert losses.layout_alignment(q_id, q).item() == pytest.approx(wanted, rel=1e-12)


def test_semantic_alignment(draw):
    """‖softmax(K Q_idᵀ/√d) Q_id − softmax(K Qᵀ/√d) Q‖², the mean of all elements."""
    rows, heads, image, text, width = 2, 2, 5, 4, 3
    q_id, q, k = draw(rows, heads, image, width), draw(rows, heads, image, width), None
    k = draw(rows, heads, text, width)

    def seen(queries, key):
        p = softmax([dot(key, query) / math.sqrt(width) for query in queries])
        return [sum(p[n] * queries[n][i] for n in range(image)) for i in range(width)]

    total = 0.0
    for b in range(rows):
        for h in range(heads):
            own, other = q_id[b, h].tolist(), q[b, h].tolist()
            for key in k[b, h].tolist():
                pairs = zip(seen(own, key), seen(other, key), strict=True)
                total += sum((x - y) ** 2 for x, y in pairs)
    found = losses.semantic_alignment(q_id, q, k)
    assert found.item() == pytest.approx(total / k.numel(), rel=1e-12)


def test_alignment_has_a_gradient_to_the_path_with_identity_alone(draw):
    q_id, q, k = (draw(1, 1, 4, 3).requires_grad_() for _ in range(3))
    both = losses.semantic_alignment(q_id, q, k) + losses.layout_alignment(q_id, q)
    both.backward()
    assert q_id.grad.abs().sum() > 0
    assert q.grad is None
    assert k.grad is None


def test_narrow_floats_are_compared_in_float32(draw):
    q_id, q = draw(1, 1, 4, 3).bfloat16(), draw(1, 1, 4, 3).bfloat16()
    found = losses.layout_alignment(q_id, q)
    assert found.dtype == torch.float32
    wanted = (q_id.double() - q.double()).square().mean().item()
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_a_shift_moves_the_noise_levels_as_the_host_moves_its_sigmas(draw):
    normal = draw(64)
    found = times(SimpleNamespace(kind=FLOW), normal, 4.0)
    assert torch.allclose(found, time_snr_shift(4.0, normal.sigmoid()), rtol=1e-12)
    assert torch.equal(times(SimpleNamespace(kind=FLOW), normal), normal.sigmoid())
    with pytest.raises(ValueError, match="noise levels are not shifted"):
        times(SimpleNamespace(kind=NOISE), normal, 4.0)
