"""Row 7: how cost grows with image tokens, identities and photos, each fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import torch
from pulid_pack.identity.fusion import FusionOptions, make_identity
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.window import Window
from pulid_pack.pulid_flux.checkpoint import from_state_dict
from pulid_pack.pulid_flux.cross_attention import folded_cost, plain_cost
from pulid_pack.pulid_flux.folding import Applied, Target, make_terms
from pulid_pack.pulid_flux.hooks import add_identity
from standins.pulid import cross_attention_shapes

from .layer import image
from .reference import HEADS, WIDTH, filled, id_tokens, true_pulid
from .rows import Check, Column, Row, Settings
from .timing import Spread, Work, exponent, interleaved, line_fit
from .true_files import EVA, pulid_shapes

CPU = torch.device("cpu")
PEOPLE_TOKENS = 1024
COLUMNS = [
    Column("what", "what grows"),
    Column("sizes", "from, to"),
    Column("first", "at the smallest, ms", "{:.1f}", 1e3),
    Column("last", "at the largest, ms", "{:.1f}", 1e3),
    Column("line", "line, ms"),
    Column("exponent", "exponent", "{:.2f}"),
    Column("counted", "exponent of the operations", "{:.2f}"),
]
LIMIT = 1.1  # an exponent of 1 is linear; the rest is the noise of a fit


def run(settings: Settings) -> Row:
    """Time each series in turns and fit it."""
    rounds = settings.pick(2, 7)
    series = [
        by_tokens(settings.pick((512, 1024, 2048), (512, 1024, 2048, 4096, 9216)), rounds),
        by_people(settings.pick((1, 2, 4), (1, 2, 4, 8)), rounds),
        by_photos(settings.pick((1, 2, 4), (1, 2, 4, 8)), rounds),
    ]
    checks = [
        Check(f"growth with {s['what']}: exponent", s["exponent"], "at most", LIMIT)
        for s in series[:2]
    ]
    note = (
        "Float32 on the CPU, true width. Tokens and identities: what a block adds to the image, "
        f"residual included, one layer (identities at {PEOPLE_TOKENS} tokens, 32 ID tokens each; "
        "from five they share the plain form). Photos: the ID encoder, which takes the vision "
        "states of all photos together, and the zero identity beside them; the stages before it "
        "work photo by photo (row 4). An exponent of 1 is linear; below 1 there is a part that "
        "does not grow."
    )
    return Row("Growth", note, COLUMNS, series, checks)


def fitted(
    what: str, sizes: Sequence[int], works: dict[str, Work], counted: float | None, rounds: int
) -> dict:
    """Return the record of one series; ``works`` are in the order of ``sizes``."""
    times = interleaved(works, CPU, rounds)
    spreads = [Spread.of(times[name]) for name in works]
    medians = [s.median for s in spreads]
    start, slope = line_fit(sizes, medians)
    scale = 1000 if slope * 1e3 < 0.1 else 1  # a readable number for tokens as for people
    per = "1000" if scale == 1000 else "1"
    return {
        "what": what,
        "sizes": f"{sizes[0]} to {sizes[-1]}",
        "points": [{"size": n, **asdict(s)} for n, s in zip(sizes, spreads, strict=True)],
        "first": medians[0],
        "last": medians[-1],
        "line": f"{start * 1e3:.1f} + {slope * scale * 1e3:.1f} per {per}",
        "exponent": exponent(sizes, medians),
        "counted": counted,
    }


def by_tokens(sizes: Sequence[int], rounds: int) -> dict:
    """Grow the picture."""
    layers = terms_of(1)
    works = {str(n): work_on(layers, n) for n in sizes}
    return fitted("image tokens", sizes, works, 1.0, rounds)


def by_people(sizes: Sequence[int], rounds: int) -> dict:
    """Grow the number of identities."""
    works = {str(n): work_on(terms_of(n), PEOPLE_TOKENS) for n in sizes}
    costs = [
        min(folded_cost(WIDTH, HEADS, [32] * n), plain_cost(WIDTH, HEADS, [32] * n)) for n in sizes
    ]
    return fitted("identities", sizes, works, exponent(sizes, costs), rounds)


def terms_of(people: int) -> list:
    """Return what a block adds for ``people`` identities: layers and their gains."""
    pulid = true_pulid(1)
    target = Target(WIDTH, 2, 1, torch.float32)
    applied = [
        Applied(
            pulid,
            Identity(id_tokens(32, seed), id_tokens(32, 99)),
            1.0,
            Window(),
            unconditional="none",
        )
        for seed in range(people)
    ]
    terms = make_terms(target, applied)
    gain = torch.tensor(0.9)
    return [(term.patcher.model.layers[0], [gain] * len(term.groups)) for term in terms]


def work_on(layers: list, tokens: int) -> Work:
    """Return one block's addition to ``tokens`` image tokens."""
    img = image(tokens, CPU, torch.float32)
    return lambda: add_identity(img, 0, tokens, [(slice(0, 1), layers)])


def by_photos(sizes: Sequence[int], rounds: int) -> dict:
    """Grow the number of photos of one person."""
    shapes = {k: s for k, s in pulid_shapes(0).items()} | cross_attention_shapes(128, 2048, 1)
    weights = {k: filled(s, i, torch.bfloat16) for i, (k, s) in enumerate(shapes.items())}
    pulid = from_state_dict(weights, "bench")
    states = (EVA["image_size"] // 14) ** 2 + 1
    works = {}
    for n in sizes:
        id_cond = filled((n, 512 + EVA["pooled"]), n) * math.sqrt(n)
        hidden = tuple(filled((n, states, EVA["width"]), n + i) for i in range(5))
        works[str(n)] = encode_work(pulid, id_cond, hidden)
    return fitted("photos, joint ID encoding", sizes, works, None, rounds)


def encode_work(pulid, id_cond: torch.Tensor, hidden: tuple[torch.Tensor, ...]) -> Work:
    """Return one run of the ID encoder on all photos, and on nothing."""
    return lambda: make_identity(pulid.id_encoder, id_cond, hidden, FusionOptions())
