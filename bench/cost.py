"""What identity costs a card, counted exactly: FLOPs, kernels, bytes moved and bytes kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from pulid_pack.pulid_flux.checkpoint import PulidModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from . import true_size
from .report import Check, Column, Row, Settings
from .true_size import Picture
from .virtual_card import on_card, place, virtual_card

# Views and questions about shapes: the card does nothing for them.
FREE = frozenset(
    ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "transpose", "t", "permute")
    + ("expand", "slice", "split", "split_with_sizes", "chunk", "unbind", "select", "unflatten")
    + ("as_strided", "detach", "alias", "lift_fresh", "_local_scalar_dense")
    + ("empty", "empty_like", "empty_strided", "new_empty")
)
OVERWRITES = frozenset(("copy_", "fill_", "zero_"))  # what was in the first argument is not read


@dataclass(frozen=True)
class Cost:
    """What a stretch of work costs the card."""

    flops: float  # of the matrix products
    kernels: float
    bytes: float  # read and written

    def beyond(self, other: Cost) -> Cost:
        """Return what this costs more than ``other``."""
        return Cost(
            self.flops - other.flops, self.kernels - other.kernels, self.bytes - other.bytes
        )

    def times(self, factor: float) -> Cost:
        """Return the cost of ``factor`` times the work."""
        return Cost(self.flops * factor, self.kernels * factor, self.bytes * factor)


class Counter(TorchDispatchMode):
    """Counts kernels and bytes; use it inside ``Card.running``."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        # x[i] += y ends in a copy of x[i] onto itself, which torch leaves out
        onto_itself = name == "copy_" and place(args[0]) == place(args[1])
        inputs = args[1:] if name in OVERWRITES else args
        moved = on_card((inputs, {k: v for k, v in (kwargs or {}).items() if k != "out"}, out))
        if moved and func.namespace == "aten" and name not in FREE and not onto_itself:
            self.kernels += 1
            self.bytes += sum(t.numel() * t.itemsize for t in moved)
        return out


def measured(work: Callable[[], Any]) -> Cost:
    """Run ``work`` and return what it cost."""
    with FlopCounterMode(display=False) as flops, Counter() as counter:
        work()
    return Cost(flops.get_total_flops(), counter.kernels, counter.bytes)


COLUMNS = [
    Column("case", "case"),
    Column("flops", "forward, TFLOP", "{:.1f}", 1e-12),
    Column("forward_bytes", "forward, GB", "{:.0f}", 1e-9),
    Column("flops_share", "identity, % FLOPs", "{:.2f}", 100),
    Column("authors_flops_share", "authors'", "{:.2f}", 100),
    Column("bytes", "identity, GB", "{:.2f}", 1e-9),
    Column("authors_bytes", "authors'", "{:.2f}", 1e-9),
    Column("bytes_share", "% of the bytes", "{:.2f}", 100),
    Column("kernels", "kernels a block", "{:.1f}"),
    Column("authors_kernels", "authors'", "{:.1f}"),
    Column("kept", "on the card for it, MB", "{:.0f}", 1e-6),
    Column("kept_share", "of the layers", "{:.3f}"),
]


def run(settings: Settings) -> Row:
    """Count one forward of each model without identity, with it, and with the authors' formula."""
    dev = "FLUX.1-dev"
    cases = [
        (dev, dev, Picture(), 1, None),
        (f"{dev}, two identities", dev, Picture(), 2, None),
        (f"{dev}, a mask", dev, Picture(), 1, 0.5),
        (f"{dev}, cfg 3", dev, Picture(rows=(1, 0)), 1, None),
        (f"{dev}, 1536", dev, Picture(1536, 1536), 1, None),
        ("FLUX.1-schnell", "FLUX.1-schnell", Picture(), 1, None),
        ("FLUX.1-Kontext", dev, Picture(references=1), 1, None),
        ("Chroma", "Chroma", Picture(), 1, None),
    ]
    depths = settings.pick((2, 4), true_size.DEPTHS)
    with virtual_card(80 << 30) as card, card.running():
        models = {name: true_size.true_model(name, depths=depths) for name in true_size.SHAPES}
        pulid = true_size.true_pulid()
        records = [
            {"case": case, **record(models[name], pulid, *rest)} for case, name, *rest in cases
        ]
    one = records[0]
    checks = [
        Check("cross-attention kept for it, cfg 1", one["kept_share"], "at most", 0.155),
        Check("cross-attention kept for it, cfg 3", records[3]["kept_share"], "at most", 0.31),
    ]
    if not settings.quick:
        checks += [
            Check("FLUX.1-dev, one identity: GB a forward", one["bytes"] / 1e9, "at most", 3.5),
            Check("FLUX.1-dev, one identity: kernels a block", one["kernels"], "at most", 6),
        ]
    note = (
        "One forward in bfloat16 at 1024 x 1024 with 512 text tokens, 32 ID tokens a person, "
        f"{depths[0]} double and {depths[1]} single blocks of the true width, all weights on the "
        "card. Bytes are what kernels read and write. The authors' formula runs after the same "
        "blocks, once for each person."
    )
    return Row("What identity costs a card", note, COLUMNS, records, checks)


def record(
    model: ModelPatcher, pulid: PulidModel, picture: Picture, people: int, mask: float | None
) -> dict[str, Any]:
    """Return the counted figures of one case."""
    places = len(true_size.block_layers(*true_size.depths_of(model)))
    ours = true_size.with_identity(model, pulid, people, mask)
    theirs = true_size.with_authors(model, picture, people)
    return compare(model, ours, theirs, picture, pulid.layers[:places])


def compare(
    model: ModelPatcher,
    ours: ModelPatcher,
    theirs: ModelPatcher,
    picture: Picture,
    layers: Sequence[nn.Module],
) -> dict[str, Any]:
    """Count a forward without identity, with ours and with theirs, which enters at ``layers``.

    FLOPs and bytes of a forward; kernels for each layer.
    """

    def cost(patched: ModelPatcher) -> tuple[Cost, int]:
        needed = true_size.prepare(patched, picture)
        return measured(lambda: true_size.forward(patched, picture)), sum(
            one.model_size() for one in needed
        )

    without, _ = cost(model)
    (mine, kept), (authors, _) = cost(ours), cost(theirs)
    mine, authors = mine.beyond(without), authors.beyond(without)
    size = sum(p.nbytes for layer in layers for p in layer.parameters())
    return {
        "flops": without.flops,
        "forward_bytes": without.bytes,
        "flops_share": mine.flops / without.flops,
        "authors_flops_share": authors.flops / without.flops,
        "bytes": mine.bytes,
        "authors_bytes": authors.bytes,
        "bytes_share": mine.bytes / without.bytes,
        "kernels": mine.kernels / len(layers),
        "authors_kernels": authors.kernels / len(layers),
        "kept": kept,
        "kept_share": kept / size,
    }
