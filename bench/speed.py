"""Rows of time: what a block adds, alone and as a share of a sampling step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.pulid_flux.blocks import add_identity
from pulid_pack.pulid_flux.cross_attention import CrossAttention, FoldedLayer, FoldingLayer
from standins.flux import TEXT_POOLED, TEXT_WIDTH, flux_shapes
from torch import Tensor

from .report import Check, Column, Row, Settings
from .true_size import HEADS, ID_TOKENS, TOKEN_WIDTH, WIDTH

Work = Callable[[], object]
WEIGHT = 0.9
DOUBLES, SINGLES, TEXT_TOKENS = 2, 4, 256  # a step's blocks; one of each kind takes identity
BLOCK = 1 << 20  # random numbers drawn for a tensor; a larger one repeats them


@dataclass(frozen=True)
class Spread:
    """A median with its lower and upper quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles as a record has them."""
    return asdict(Spread.of(list(values)))


def seconds(work: Work, device: torch.device) -> float:
    """Return how long ``work`` takes on ``device``; on CUDA by events."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def interleaved(
    works: Mapping[str, Work], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Time every work once a round, so that a busy moment of the machine falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(1 + rounds):
        for name, work in works.items():
            taken = seconds(work, device)
            if turn:  # the first round warms up
                times[name].append(taken)
    return times


def devices() -> list[torch.device]:
    """Return the CPU and, where there is one, the first GPU."""
    return [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()


def filled(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return N(0, 1/fan_in) values; drawing few and repeating them makes gigabytes in no time."""
    size = torch.Size(shape)
    noise = torch.randn(min(size.numel(), BLOCK), generator=torch.Generator().manual_seed(seed))
    noise = (noise / max(1, size[1:].numel()) ** 0.5).to(dtype)
    return noise.repeat(-(-size.numel() // noise.numel()))[: size.numel()].view(size)


def true_layer() -> CrossAttention:
    """Return one layer of the true size with random weights, float32 on the CPU."""
    layer = CrossAttention(WIDTH, TOKEN_WIDTH, HEADS)
    for i, (name, parameter) in enumerate(layer.named_parameters()):
        parameter.requires_grad_(False)
        if not name.startswith("norm"):
            parameter.copy_(filled(parameter.shape, i))
    return layer


class Block:
    """What identity adds behind one block, in both forms."""

    def __init__(self, layer: CrossAttention, count: int, device: torch.device, dtype: torch.dtype):
        tokens = filled((1, count, TOKEN_WIDTH), 1) * TOKEN_WIDTH**0.5
        weights = FoldingLayer(layer, device).fold(tokens.to(device))
        self.folded = FoldedLayer(*(w.to(dtype).contiguous() for w in weights), layer.heads)
        self.layer = true_layer().to(device, dtype)
        self.tokens = tokens.to(device, dtype)
        self.gain = torch.tensor(WEIGHT, device=device)

    def authors(self, img: Tensor) -> Tensor:
        """img [1, N, D] -> the same with the authors' formula added."""
        return img + WEIGHT * self.layer(self.tokens, img)

    def ours(self, img: Tensor) -> Tensor:
        """img [1, N, D] -> the same with the identity added as the pack does it."""
        return add_identity(img, 0, img.shape[1], [(slice(0, 1), [(self.folded, self.gain)])])


def layer(settings: Settings) -> Row:
    """Time what one block adds, residual included."""
    records, weights = [], true_layer()
    sizes = settings.pick([(1024, 32)], [(n, t) for n in (1024, 4096, 9216) for t in (32, 128)])
    for device in devices():
        for dtype in (torch.float32, torch.bfloat16):
            for tokens, count in sizes:
                block = Block(weights, count, device, dtype)
                img = filled((1, tokens, WIDTH), tokens, dtype).to(device) * WIDTH**0.5
                works = {"authors": lambda b=block, i=img: b.authors(i)}
                works["ours"] = lambda b=block, i=img: b.ours(i)
                times = interleaved(works, device, settings.pick(2, 7))
                ratios = [a / b for a, b in zip(times["authors"], times["ours"], strict=True)]
                theirs, ours = (works[name]().float() - img.float() for name in works)
                records.append(
                    {
                        "case": f"{name_of(device, dtype)}, {tokens} tokens, {count} ID tokens",
                        "authors": spread(times["authors"]),
                        "ours": spread(times["ours"]),
                        "faster": spread(ratios),
                        "difference": float((ours - theirs).abs().max() / theirs.abs().max()),
                    }
                )
    columns = [
        Column("case", "case"),
        Column("authors", "authors, ms", "{:.1f}", 1e3),
        Column("ours", "ours, ms", "{:.1f}", 1e3),
        Column("faster", "times faster", "{:.2f}"),
        Column("difference", "largest difference", "{:.1e}"),
    ]
    note = "What is added behind one block to the image tokens, the addition included."
    slowest = min(r["faster"]["median"] for r in records if "float32" in r["case"])
    checks = [Check("one block in float32: times faster, at its slowest", slowest, "at least", 1)]
    return Row("One block, 3072 wide", note, columns, records, checks)


def step(settings: Settings) -> Row:
    """Time a step of a few blocks, and what identity adds to it, in turns."""
    records, weights = [], true_layer()
    for device in devices():
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = few_blocks(dtype)
        comfy.model_management.load_models_gpu([model])
        block = Block(weights, ID_TOKENS, device, dtype)
        for side in settings.pick((32,), (64, 128)):
            latent = filled((1, 16, side, side), 1, dtype).to(device)
            img = filled((1, side * side // 4, WIDTH), 2, dtype).to(device) * WIDTH**0.5
            works = {
                "step": lambda m=model, x=latent: forward(m, x),
                # one double and one single block
                "authors": lambda b=block, i=img: (b.authors(i), b.authors(i)),
                "ours": lambda b=block, i=img: (b.ours(i), b.ours(i)),
            }
            times = interleaved(works, device, settings.pick(1, 3))
            shares = {
                name: [t / (t + s) for t, s in zip(times[name], times["step"], strict=True)]
                for name in ("authors", "ours")
            }
            records.append(
                {
                    "case": f"{name_of(device, dtype)}, {side * side // 4} tokens",
                    "step": spread(times["step"]),
                    **{name: spread(share) for name, share in shares.items()},
                }
            )
    columns = [
        Column("case", "case"),
        Column("step", "step without, s", "{:.2f}"),
        Column("authors", "authors' share, %", "{:.2f}", 100),
        Column("ours", "our share, %", "{:.2f}", 100),
    ]
    note = (
        f"A FLUX {WIDTH} wide with {DOUBLES} double and {SINGLES} single blocks and {TEXT_TOKENS} "
        "text tokens, one identity. Two of the six blocks take it; of FLUX.1's 57 it is 20, so the "
        "share is much the same. Step and additions are timed in turns."
    )
    return Row("Identity's share of a sampling step", note, columns, records)


def few_blocks(dtype: torch.dtype) -> ModelPatcher:
    """Return a FLUX.1 of true width and reduced depth with arbitrary weights."""
    shapes = flux_shapes(WIDTH, True, 64, DOUBLES, SINGLES)
    weights = {k: filled(shape, i, dtype) for i, (k, shape) in enumerate(shapes.items())}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
    model.set_model_compute_dtype(dtype)
    return model


def forward(model: ModelPatcher, latent: Tensor) -> Tensor:
    """Run FLUX once."""
    like = {"device": latent.device, "dtype": latent.dtype}
    return model.model.diffusion_model(
        latent,
        torch.full((1,), 0.6, **like),
        torch.zeros(1, TEXT_TOKENS, TEXT_WIDTH, **like),
        torch.zeros(1, TEXT_POOLED, **like),
        torch.full((1,), 3.5, **like),
        transformer_options={},
    )


def name_of(device: torch.device, dtype: torch.dtype) -> str:
    """Return a case's device and dtype."""
    return f"{device.type} {str(dtype).removeprefix('torch.')}"
