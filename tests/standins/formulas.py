"""The fusion modes of older packs, each as its formula says: tokens [T, C] of each photo -> [T, C].

auto_weight gives the strongest photo of a token HIGH and the weakest LOW, as the tests ask for.
"""

from __future__ import annotations

import torch

LOW, HIGH = 0.25, 1.5


def mean(x):
    return sum(x) / len(x)


def concat(x):
    return torch.cat(list(x))


def elementwise_max(x):
    return torch.stack(list(x)).max(0).values


def norm_id(x):
    lengths = [float(t.square().sum().sqrt()) for t in x]
    return sum(t * n for t, n in zip(x, lengths, strict=True)) / sum(lengths)


def max_token(x):
    rows = []
    for k in range(len(x[0])):
        rows.append(max((t[k] for t in x), key=lambda row: float(row.norm())))
    return torch.stack(rows)


def auto_weight(x):
    rows = []
    for k in range(len(x[0])):
        ordered = sorted((t[k] for t in x), key=lambda row: float(row.norm()))
        step = (HIGH - LOW) / (len(ordered) - 1)
        rows.append(sum(row * (LOW + i * step) for i, row in enumerate(ordered)))
    return torch.stack(rows)


FORMULAS = {"mean": mean, "concat": concat, "max": elementwise_max, "norm_id": norm_id}
FORMULAS |= {"max_token": max_token, "auto_weight": auto_weight}
