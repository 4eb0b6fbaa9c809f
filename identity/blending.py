"""Several people become one: identities mixed by weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .identity import FAMILIES, FaceVectors, Identity


def blend(identities: list[Identity], weights: list[float], spherical: bool) -> Identity:
    """Return the mix of identities by their weights, which need not add up to 1.

    Linear: the weighted mean. Spherical: directions are averaged on the sphere, token by token,
    and lengths linearly, so that a mix of two is not weaker than either. Raises ValueError for
    empty identities, different sizes, or weights that cancel out.
    """
    if any(identity.is_nobody for identity in identities):
        raise ValueError(
            "An identity to blend is empty, since no photo had a face. Use a photo with a face, or "
            "leave that identity out."
        )
    families = sorted({FAMILIES[i.family] for i in identities})
    if len(families) > 1:
        raise ValueError(
            f"Identities of different PuLID models cannot be blended: {' and '.join(families)}. "
            "Encode the photos with one of them."
        )
    for kind, key in (("tokens", "id_tokens"), ("unconditional tokens", "uncond_id_tokens")):
        shapes = {tuple(getattr(i, key).shape) for i in identities}
        if len(shapes) > 1:
            sizes = ", ".join(f"{s[1]} {kind} of {s[2]}" for s in sorted(shapes))
            raise ValueError(
                f"Identities of different sizes cannot be blended: {sizes}. Encode them with one "
                "PuLID model and one photo each, or with a fusion that keeps the number of tokens."
            )
    total = sum(weights)
    if abs(total) < 1e-6:
        raise ValueError(f"The weights {weights} add up to 0; change at least one of them.")
    shares = [w / total for w in weights]
    mix = spherical_mix if spherical else linear_mix
    faces = blend_faces([i.faces for i in identities], shares)
    return Identity(
        mix([i.id_tokens for i in identities], shares),
        linear_mix([i.uncond_id_tokens for i in identities], shares),
        identities[0].family,
        faces,
    )


def blend_faces(faces: list[FaceVectors | None], shares: list[float]) -> FaceVectors | None:
    """Return one face vector [1, 512] for the mix: the weighted mean of the people's directions.

    A person's direction is the mean of their photos' vectors of unit length. None if an identity
    has no vectors, if they are of different recognisers, or if they cancel out.
    """
    known = [each for each in faces if each is not None]
    if len(known) < len(faces) or len({each.recogniser for each in known}) > 1:
        return None
    normalize = torch.nn.functional.normalize
    people = [normalize(normalize(f.vectors, dim=-1).mean(0, keepdim=True), dim=-1) for f in known]
    mixed = linear_mix(people, shares)
    if mixed.norm() < 1e-6:
        return None
    return FaceVectors(mixed, known[0].recogniser, known[0].pack)


def linear_mix(tokens: list[Tensor], shares: list[float]) -> Tensor:
    """Return the weighted sum of tensors [1, T, C]."""
    return torch.stack([t * s for t, s in zip(tokens, shares, strict=True)]).sum(0)


def spherical_mix(tokens: list[Tensor], shares: list[float]) -> Tensor:
    """Interpolate [1, T, C] tensors along great circles, one after the other (slerp)."""
    mixed, so_far = tokens[0], shares[0]
    for other, share in zip(tokens[1:], shares[1:], strict=True):
        so_far += share
        mixed = slerp(mixed, other, share / so_far if so_far else 0.5)
    return mixed


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Interpolate a, b [1, T, C] at ``t`` in 0..1: lengths linearly, directions on the sphere."""
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / length_a.clamp_min(1e-12), b / length_b.clamp_min(1e-12)
    angle = (unit_a * unit_b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    near = sine < 1e-4  # parallel or opposite: there is no circle to follow
    safe = torch.where(near, torch.ones_like(sine), sine)
    direction = ((1 - t) * angle).sin() / safe * unit_a + (t * angle).sin() / safe * unit_b
    direction = torch.where(near, (1 - t) * unit_a + t * unit_b, direction)
    return direction * ((1 - t) * length_a + t * length_b)
