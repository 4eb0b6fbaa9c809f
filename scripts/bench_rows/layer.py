"""Row 1: one identity layer of the true size, the authors' formula against ours."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product

import torch
from pulid_pack.pulid_flux.cross_attention import CrossAttention
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.utils.flop_counter import FlopCounterMode

from .reference import (
    WIDTH,
    authors_attention,
    cheaper_form,
    crossover_by_count,
    device_bytes,
    folded_form,
    id_tokens,
    plain_form,
    true_layer,
)
from .rows import Check, Column, Row, Settings
from .timing import Spread, Work, interleaved, line_fit, peak_bytes, ratio

WEIGHT = 0.9
COLUMNS = [
    Column("case", "case"),
    Column("form", "our form"),
    Column("authors_seconds", "authors, ms", "{:.1f}", 1e3),
    Column("ours_seconds", "ours, ms", "{:.1f}", 1e3),
    Column("faster", "times faster", "{:.2f}"),
    Column("operations_ratio", "of the operations", "{:.2f}"),
    Column("bytes_ratio", "of the bytes", "{:.2f}"),
    Column("ours_bytes", "ours, MB", "{:.1f}", 1e-6),
    Column("peak_ratio", "of the peak (CUDA)", "{:.2f}"),
    Column("difference", "largest difference", "{:.1e}"),
]


def run(settings: Settings) -> Row:
    """Measure every size on the CPU, and on CUDA where there is one."""
    records, crossings = [], []
    layer = true_layer(0)
    for device in devices():
        for dtype in (torch.float32, torch.bfloat16):
            on_device = layer.to(device, dtype)
            for tokens, count in cases(dtype, settings):
                records.append(compare(layer, on_device, tokens, count, settings))
            crossings.append(crossover(layer, device, dtype, settings))
    checks = wanted(records) + [
        Check(
            f"forms cross where the code puts it, {c['name']}: distance as a share",
            abs(c["measured"] / c["counted"] - 1),
            "at most",
            0.2,
        )
        for c in crossings
    ]
    told = ", ".join(f"{c['name']} {c['measured']:.0f}" for c in crossings)
    note = (
        "Times are of LayerNorm, attention and weight, without the addition to the image. "
        f"The folded form is taken below {crossover_by_count():.0f} ID tokens, by counting; "
        f"measured, the two forms cost the same at: {told}."
    )
    return Row("One identity layer, 3072 wide", note, COLUMNS, records, checks)


def devices() -> list[torch.device]:
    """Return the CPU and, where there is one, the first GPU."""
    return [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()


def cases(dtype: torch.dtype, settings: Settings) -> list[tuple[int, int]]:
    """Return the pairs of image tokens and ID tokens to measure."""
    if settings.quick:
        return [(1024, 32), (1024, 128)] + [(4096, 32)] * (dtype == torch.float32)
    return list(product((1024, 4096, 9216), (32, 64, 128, 256)))


def compare(
    layer: CrossAttention, theirs: CrossAttention, tokens: int, count: int, settings: Settings
) -> dict:
    """Time both forms for ``tokens`` image tokens and ``count`` ID tokens."""
    device, dtype = theirs.to_q.device, theirs.to_q.dtype
    identity = id_tokens(count)
    ours = cheaper_form(layer, identity, dtype).to(device)
    img = image(tokens, device, dtype)
    works = {
        "authors": authors_work(theirs, identity.to(device, dtype), img),
        "ours": our_work(ours, img),
    }
    times = interleaved(works, device, settings.pick(3, 7))
    out = {name: work().float() for name, work in works.items()}
    operations = {name: count_operations(work) for name, work in works.items()}
    peaks = {name: peak_bytes(work, device) for name, work in works.items()}
    their_bytes = sum(t.numel() * t.element_size() for t in vars(theirs).values())
    return {
        "case": f"{device.type} {name_of(dtype)}, {tokens} tokens, {count} ID tokens",
        "device": device.type,
        "dtype": name_of(dtype),
        "tokens": tokens,
        "id_tokens": count,
        "form": type(ours).__name__.removesuffix("Layer").lower(),
        "authors_seconds": asdict(Spread.of(times["authors"])),
        "ours_seconds": asdict(Spread.of(times["ours"])),
        "faster": asdict(ratio(times["authors"], times["ours"])),
        "operations": operations["ours"],
        "operations_ratio": operations["ours"] / operations["authors"],
        "ours_bytes": device_bytes(ours),
        "bytes_ratio": device_bytes(ours) / their_bytes,
        "peak_ratio": peaks["ours"] / peaks["authors"] if peaks["ours"] else None,
        "difference": largest_difference(out["ours"], out["authors"]),
    }


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def image(tokens: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return random image tokens [1, N, D]."""
    noise = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(tokens))
    return noise.to(device, dtype)


def authors_work(layer: CrossAttention, identity: Tensor, img: Tensor) -> Work:
    """Return one call of the authors' layer."""
    return lambda: authors_attention(layer, identity, img) * WEIGHT


def our_work(layer: nn.Module, img: Tensor) -> Work:
    """Return one call of ours."""
    gain = torch.tensor(WEIGHT)
    return lambda: layer(layer_norm(img, img.shape[-1:]), [gain])


def count_operations(work: Work) -> int:
    """Return the floating-point operations of the matrix products in ``work``."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def crossover(
    layer: CrossAttention, device: torch.device, dtype: torch.dtype, settings: Settings
) -> dict:
    """Return where lines through the times of both forms meet, near where the code puts it."""
    counted = crossover_by_count()
    img = image(settings.pick(512, 2048), device, dtype)
    counts = [round(counted * share / 8) * 8 for share in (0.6, 0.8, 1.0, 1.2, 1.4)]
    works = {}
    for count in counts:
        for name, form in (("folded", folded_form), ("plain", plain_form)):
            made = form(layer, id_tokens(count), dtype).to(device)
            works[f"{name} {count}"] = our_work(made, img)
    times = interleaved(works, device, settings.pick(3, 7))
    lines = [
        line_fit(counts, [Spread.of(times[f"{name} {count}"]).median for count in counts])
        for name in ("folded", "plain")
    ]
    (folded_start, folded_slope), (plain_start, plain_slope) = lines
    measured = (plain_start - folded_start) / (folded_slope - plain_slope)
    return {
        "name": f"{device.type} {name_of(dtype)}",
        "counted": counted,
        "measured": measured,
    }


def wanted(records: list[dict]) -> list[Check]:
    """Return the wanted figures of the layer, asked of float32 on the CPU."""
    mine = [r for r in records if r["device"] == "cpu" and r["dtype"] == "float32"]
    named = next(r for r in mine if (r["tokens"], r["id_tokens"]) == (4096, 32))
    slowest = min(mine, key=lambda r: r["faster"]["median"])
    return [
        Check(
            "layer, 4096 tokens, 32 ID tokens, float32: times faster",
            named["faster"]["median"],
            "at least",
            3,
        ),
        Check(
            f"never slower in float32 (slowest: {slowest['case']})",
            slowest["faster"]["median"],
            "at least",
            1,
        ),
    ]


def name_of(dtype: torch.dtype) -> str:
    """Return the short name of a dtype."""
    return str(dtype).removeprefix("torch.")
