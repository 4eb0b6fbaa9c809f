"""The paper's losses as pure functions (arXiv 2404.16022, section 3).

    L = L_diff + λ_id · L_id + λ_sem · L_sem + λ_layout · L_layout

All are means: over pictures, and over the elements of what is compared. The paper writes sums of
squares; with means λ does not depend on a picture's size. Narrow floats are widened first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flow_matching(v: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """L_diff of a flow model: mean ‖v − (ε − x0)‖²; all [B, C, H, W].

    The noised picture was x_t = (1 − t) · x0 + t · ε.
    """
    return squared(v, wide(noise) - wide(x0))


def noise_prediction(eps_hat: Tensor, eps: Tensor) -> Tensor:
    """L_diff of a model that predicts the noise (SDXL): mean ‖ε̂ − ε‖²; both [B, C, H, W]."""
    return squared(eps_hat, eps)


def v_prediction(v: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """L_diff of SDXL's v-prediction models: mean ‖v − (ε − σ · x0) / √(1 + σ²)‖²; sigma [B].

    The noised picture was x0 + σ · ε, as ComfyUI scales it.
    """
    sigma = wide(sigma).reshape(-1, *[1] * (x0.ndim - 1))
    return squared(v, (wide(noise) - sigma * wide(x0)) / (1 + sigma.square()).sqrt())


def one_step_estimate(out: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the estimate of x0 from one forward, for the naive L_id: x − σ · out.

    x, out [B, C, H, W], sigma [B] -> [B, C, H, W]. ``out`` is a flow model's velocity or the noise
    of a model with x = x0 + σ · ε: the formula is the same. For v prediction: ``Base.denoised``.
    """
    return wide(x) - wide(sigma).reshape(-1, *[1] * (x.ndim - 1)) * wide(out)


def identity(photo: Tensor, picture: Tensor, found: Tensor | None = None) -> Tensor:
    """L_id: mean of 1 − cos(φ(photo's face), φ(face in the picture)); both [B, V].

    ``found`` [B] is 1 where the picture has a face, else 0: such pictures do not count, and if none
    has one the loss is 0. The photo's vector is a constant.
    """
    cosine = torch.nn.functional.cosine_similarity(wide(photo).detach(), wide(picture), dim=-1)
    if found is None:
        return (1 - cosine).mean()
    found = found.to(cosine)
    # where, not a product: a picture without a face may have a vector that is not finite
    lost = torch.where(found > 0, 1 - cosine, torch.zeros_like(cosine))
    return lost.sum() / found.sum().clamp_min(1)


def semantic_alignment(q_id: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """L_sem of one layer: mean ‖softmax(K Q_idᵀ/√d) Q_id − softmax(K Qᵀ/√d) Q‖².

    q_id, q [B, heads, N, d] are image features with and without identity, k [B, heads, L, d] the
    text features of the path without; only q_id has a gradient. How the text's tokens see the
    picture must not depend on the person.
    """
    return squared(response(q_id, k.detach()), response(q, k).detach())


def response(q: Tensor, k: Tensor) -> Tensor:
    """softmax(K Qᵀ/√d) Q: q [B, heads, N, d], k [B, heads, L, d] -> [B, heads, L, d]."""
    q, k = wide(q), wide(k)
    return (k @ q.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ q


def layout_alignment(q_id: Tensor, q: Tensor) -> Tensor:
    """L_layout of one layer: mean ‖Q_id − Q‖²; both [B, heads, N, d], only q_id has a gradient."""
    return squared(q_id, q.detach())


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    return (wide(found) - wide(wanted)).square().mean()


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
