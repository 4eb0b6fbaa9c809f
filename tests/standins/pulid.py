"""A stand-in for the PuLID-FLUX file: random weights under the true keys."""

from __future__ import annotations

from pathlib import Path

import torch

from standins.flux import HEAD_DIM, Shapes, random_weights, save, without_detail, without_ground


def write_pulid(
    path: Path,
    flux_hidden: int = 128,
    *,
    vit_width: int,
    id_cond_width: int,
    encoder_width: int = 192,
    token_width: int = 96,
    layers: int = 20,
    seed: int = 2,
) -> None:
    """Write a PuLID-FLUX file for a FLUX of width ``flux_hidden``; all widths differ on purpose.

    vit_width: EVA-CLIP's hidden states; id_cond_width: 512 + EVA-CLIP's pooled width.
    """
    shapes = cross_attention_shapes(flux_hidden, token_width, layers)
    shapes |= encoder_shapes(encoder_width, token_width, vit_width, id_cond_width)
    weights = random_weights(shapes, torch.Generator().manual_seed(seed))
    for key, value in weights.items():
        if key.startswith("pulid_ca."):
            if key.endswith("to_q.weight"):
                # choosy, and by place: the identity shows as shapes, not as one tint
                value.copy_(8.0 * without_ground(value))
            elif key.endswith("to_out.weight"):
                value.copy_(0.12 * without_detail(value))
        elif key.endswith("to_out.weight"):
            value *= 2.0  # faces weigh more than the learned queries
    weights["pulid_encoder.latents"] *= 5.0  # their fan-in is not their width
    save(weights, path, torch.bfloat16)


def cross_attention_shapes(
    flux_hidden: int, token_width: int, layers: int, heads: int = 2
) -> Shapes:
    """Return the shapes of ``pulid_ca.*``, with heads of 128."""
    shapes: Shapes = {}
    for layer in (f"pulid_ca.{i}" for i in range(layers)):
        for norm, width in (("norm1", token_width), ("norm2", flux_hidden)):
            shapes |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
        shapes[f"{layer}.to_q.weight"] = (heads * HEAD_DIM, flux_hidden)
        shapes[f"{layer}.to_kv.weight"] = (2 * heads * HEAD_DIM, token_width)
        shapes[f"{layer}.to_out.weight"] = (flux_hidden, heads * HEAD_DIM)
    return shapes


def encoder_shapes(width: int, token_width: int, vit_width: int, id_cond_width: int) -> Shapes:
    """Return the shapes of ``pulid_encoder.*``: 5 scales of 2 layers, 32 queries, 5 ID tokens."""
    shapes: Shapes = {"latents": (1, 32, width), "proj_out": (width, token_width)}
    vectors: list[tuple[str, int]] = []
    for i in range(10):
        shapes[f"layers.{i}.0.to_q.weight"] = (width, width)
        shapes[f"layers.{i}.0.to_kv.weight"] = (2 * width, width)
        shapes[f"layers.{i}.0.to_out.weight"] = (width, width)
        shapes[f"layers.{i}.1.1.weight"] = (4 * width, width)
        shapes[f"layers.{i}.1.3.weight"] = (width, 4 * width)
        norms = (f"layers.{i}.0.norm1", f"layers.{i}.0.norm2", f"layers.{i}.1.0")
        vectors += [(f"{norm}.{part}", width) for norm in norms for part in ("weight", "bias")]
    mappings = {f"mapping_{i}": (vit_width, width) for i in range(5)}
    for name, (inputs, outputs) in {
        **mappings,
        "id_embedding_mapping": (id_cond_width, 5 * width),
    }.items():
        shapes[f"{name}.0.weight"] = (width, inputs)
        shapes[f"{name}.3.weight"] = (width, width)
        shapes[f"{name}.6.weight"] = (outputs, width)
        vectors += [(f"{name}.{i}.bias", width) for i in (0, 1, 3, 4)]
        vectors += [(f"{name}.{i}.weight", width) for i in (1, 4)]
        vectors.append((f"{name}.6.bias", outputs))
    shapes |= {key: (size,) for key, size in vectors}
    return {f"pulid_encoder.{key}": shape for key, shape in shapes.items()}
