"""Muon: what a step is, for matrices and for all other weights."""

from __future__ import annotations

import pytest
import torch
from pulid_pack.training.optimization import Muon, orthogonal


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_a_matrix_keeps_its_directions_and_loses_their_sizes(draw, shape):
    """The polynomial's values lie between 0.7 and 1.2; directions of next to nothing stay so."""
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=draw), full_matrices=False)
    sizes = torch.logspace(0, -2, min(shape))
    found = orthogonal(u * sizes @ vh)
    between = u.T @ found @ vh.T
    assert between.diagonal().min() > 0.65 and between.diagonal().max() < 1.25
    # what lies beside the diagonal is rounding in float32, grown fivefold in each iteration
    torch.testing.assert_close(between, between.diagonal().diag(), atol=1e-3, rtol=0)
    torch.testing.assert_close(orthogonal(7 * u * sizes @ vh), found, atol=1e-3, rtol=0)


def test_a_step_of_a_matrix_is_of_adamws_size_and_goes_downhill(draw):
    weight = torch.nn.Parameter(torch.randn(64, 32, generator=draw))
    begun = weight.detach().clone()
    weight.grad = 1e-5 * torch.randn(64, 32, generator=draw)
    slope = weight.grad.clone()
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    moved = weight.detach() - 0.95 * begun  # the decay: 1 - 0.5 * 0.1
    # 0.2, AdamW's usual, times the rate and the singular values, whose mean is near 0.9
    assert moved.square().mean().sqrt() == pytest.approx(0.5 * 0.2 * 0.9, rel=0.15)
    assert (moved * slope).sum() < 0
    assert weight.grad is None


def test_a_second_step_follows_both_gradients(draw):
    weight = torch.nn.Parameter(torch.zeros(3, 3))
    first, second = torch.randn(2, 3, 3, generator=draw)
    optimizer = Muon([weight], lr=1.0, weight_decay=0.0)
    for gradient in (first, second):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
    momentum = 0.95 * 0.05 * first + 0.05 * second
    wanted = orthogonal(0.05 * second + 0.95 * momentum)
    torch.testing.assert_close(weight - before, -0.2 * 3**0.5 * wanted)


@pytest.mark.parametrize("shape", [(5,), (1, 2, 3)])
def test_other_weights_move_as_by_adamw(draw, shape):
    begun = torch.randn(shape, generator=draw)
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.3}
    ends = []
    for kind in (Muon, torch.optim.AdamW):
        weight = torch.nn.Parameter(begun.clone())
        matrix = torch.nn.Parameter(torch.eye(2))
        optimizer = kind([matrix, weight], **settings)
        for step in range(3):
            matrix.grad = torch.eye(2)
            weight.grad = begun.sin() + step
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)
