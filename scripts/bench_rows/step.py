"""Row 2: identity's share of a step of a FLUX of true width, measured inside the step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.window import Window
from pulid_pack.pulid_flux.apply import apply_identity, injection_of
from pulid_pack.pulid_flux.checkpoint import PulidModel
from pulid_pack.pulid_flux.cross_attention import CrossAttention
from pulid_pack.pulid_flux.folding import Applied
from pulid_pack.pulid_flux.hooks import KEY, IdentityBlock, block_layers, diffusion_model
from standins.flux import TEXT_POOLED, TEXT_WIDTH, flux_shapes
from torch import Tensor

from .layer import devices, name_of
from .reference import WIDTH, authors_attention, filled, id_tokens, true_pulid
from .rows import Check, Column, Row, Settings
from .timing import Spread, peak_bytes, seconds

DOUBLES, SINGLES = 2, 4
TEXT_TOKENS = 256
ID_TOKENS = 32
PEOPLE = (1, 2, 4)
WEIGHT = 0.9
COLUMNS = [
    Column("case", "case"),
    Column("people", "identities", "{:.0f}"),
    Column("step_seconds", "step without, s", "{:.2f}"),
    Column("authors_share", "authors' share, %", "{:.2f}", 100),
    Column("ours_share", "our share, %", "{:.2f}", 100),
    Column("share_ratio", "ours / authors'", "{:.2f}"),
    Column("authors_peak", "authors' peak, MB (CUDA)", "{:.0f}", 1e-6),
    Column("ours_peak", "our peak, MB (CUDA)", "{:.0f}", 1e-6),
]

Block = tuple[str, int]
Hook = Callable[[dict, dict, dict], dict]  # args, extra, what the block returned -> the same
Tally = dict[tuple[int, int], float]  # (step, round) -> seconds in all hooks of that step


def run(settings: Settings) -> Row:
    """Measure on the CPU in float32, and on CUDA in bfloat16 where there is one."""
    records = []
    for device in devices():
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = true_width_flux(dtype)
        comfy.model_management.load_models_gpu([model])
        pulid = true_pulid(len(block_layers(DOUBLES, SINGLES)))
        for side in settings.pick((32,), (64, 128)):
            steps = settings.pick(1, 3 if side == 64 else 2)
            latent = filled((1, 16, side, side), 1, dtype).to(device)
            records += measure(model, pulid, latent, steps, settings.pick(2, 5))
    checks = [
        Check(
            f"share of a true-width step, ours / authors': {r['case']}, 1 identity",
            r["share_ratio"]["median"],
            "at most",
            0.4,
        )
        for r in records
        if r["people"] == 1 and r["device"] == "cpu"
    ]
    note = (
        f"A FLUX {WIDTH} wide with {DOUBLES} double and {SINGLES} single blocks, {TEXT_TOKENS} "
        f"text tokens, {ID_TOKENS} ID tokens a person. Two of the six blocks take identity; of "
        "FLUX.1's 57 it is 20, so the share is much the same. In each such block all variants are "
        "timed in turn on what the block returned, so they share one step. The authors' formula "
        "runs once for each person, as chained nodes do."
    )
    return Row("Identity's share of a sampling step", note, COLUMNS, records, checks)


def true_width_flux(dtype: torch.dtype) -> ModelPatcher:
    """Return a FLUX.1 of true width and reduced depth with arbitrary weights."""
    shapes = flux_shapes(WIDTH, True, 64, DOUBLES, SINGLES)
    weights = {k: filled(shape, i, dtype) for i, (k, shape) in enumerate(shapes.items())}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
    model.set_model_compute_dtype(dtype)
    return model


def measure(
    model: ModelPatcher,
    pulid: PulidModel,
    latent: Tensor,
    steps: int,
    rounds: int,
) -> list[dict]:
    """Return one record for each number of people."""
    probe = Probe(latent.device, rounds)
    for people in PEOPLE:
        probe.hooks[f"ours {people}"] = our_hooks(model, pulid, people, latent)
        probe.hooks[f"authors {people}"] = authors_hooks(pulid, people, latent)
    forward(model, latent, {})  # warm
    bare = [probe.step(model, latent) for _ in range(steps)]
    tokens = latent.shape[-1] * latent.shape[-2] // 4
    return [
        {
            "case": f"{latent.device.type} {name_of(latent.dtype)}, {tokens} tokens",
            "device": latent.device.type,
            "tokens": tokens,
            "people": people,
            "step_seconds": asdict(Spread.of(bare)),
            **compare(probe.times[f"authors {people}"], probe.times[f"ours {people}"], bare),
            "authors_peak": peak(model, latent, probe.hooks[f"authors {people}"]),
            "ours_peak": peak(model, latent, probe.hooks[f"ours {people}"]),
        }
        for people in PEOPLE
    ]


def compare(authors: Tally, ours: Tally, bare: list[float]) -> dict:
    """Return shares and their ratio over all (step, round), each with the step it was in."""
    shares = [
        {at: t / (t + bare[at[0]]) for at, t in tally.items()}  # of the step with identity
        for tally in (authors, ours)
    ]
    return {
        "authors_seconds": asdict(Spread.of(list(authors.values()))),
        "ours_seconds": asdict(Spread.of(list(ours.values()))),
        "authors_share": asdict(Spread.of(list(shares[0].values()))),
        "ours_share": asdict(Spread.of(list(shares[1].values()))),
        "share_ratio": asdict(Spread.of([shares[1][at] / shares[0][at] for at in shares[0]])),
    }


class Probe:
    """Times every variant's hooks after each block that takes identity, in turn, in one step."""

    def __init__(self, device: torch.device, rounds: int):
        self.device = device
        self.rounds = rounds
        self.hooks: dict[str, dict[Block, Hook]] = {}
        self.times: dict[str, Tally] = defaultdict(lambda: defaultdict(float))
        self.steps = 0
        self.spent = 0.0  # in hooks, in the present step

    def step(self, model: ModelPatcher, latent: Tensor) -> float:
        """Run one step; return its seconds without the hooks."""
        blocks = {(n, i) for n, i, _ in block_layers(DOUBLES, SINGLES)}
        self.spent = 0.0
        dit = {block: BlockProbe(self, block) for block in blocks}
        whole = seconds(lambda: forward(model, latent, dit), self.device)
        self.steps += 1
        return whole - self.spent

    def time_hooks(self, block: Block, args: dict, extra: dict, out: dict) -> None:
        """Time every variant on what ``block`` returned."""
        start = time.perf_counter()
        for turn in range(self.rounds):
            for name, hooks in self.hooks.items():
                hook = hooks[block]
                if turn == 0:
                    hook(args, extra, out)  # warm
                taken = seconds(lambda hook=hook: hook(args, extra, out), self.device)
                self.times[name][self.steps, turn] += taken
        self.spent += time.perf_counter() - start


@dataclass(frozen=True)
class BlockProbe:
    """A block of one step, followed by the probe; the step goes on without identity."""

    probe: Probe
    block: Block

    def __call__(self, args: dict, extra: dict) -> dict:
        out = extra["original_block"](args)
        if self.probe.device.type == "cuda":
            torch.cuda.synchronize(self.probe.device)
        self.probe.time_hooks(self.block, args, extra, out)
        return out


def peak(model: ModelPatcher, latent: Tensor, hooks: dict[Block, Hook]) -> int | None:
    """Return what a step with ``hooks`` allocates at most beyond the weights; None on a CPU."""
    dit = {block: Hooked(hook) for block, hook in hooks.items()}
    return peak_bytes(lambda: forward(model, latent, dit), latent.device)


@dataclass(frozen=True)
class Hooked:
    """A block with what is put behind it."""

    hook: Hook

    def __call__(self, args: dict, extra: dict) -> dict:
        return self.hook(args, extra, extra["original_block"](args))


def forward(model: ModelPatcher, latent: Tensor, dit: dict) -> None:
    """Run FLUX once with ``dit`` in place of blocks."""
    like = {"device": latent.device, "dtype": latent.dtype}
    model.model.diffusion_model(
        latent,
        torch.full((1,), 0.6, **like),
        torch.zeros(1, TEXT_TOKENS, TEXT_WIDTH, **like),
        torch.zeros(1, TEXT_POOLED, **like),
        torch.full((1,), 3.5, **like),
        transformer_options={"patches_replace": {"dit": dit}},
    )


def our_hooks(
    model: ModelPatcher, pulid: PulidModel, people: int, latent: Tensor
) -> dict[Block, Hook]:
    """Return what the pack puts behind each block, taken from a real injection."""
    patched = model
    for seed in range(people):
        identity = Identity(id_tokens(ID_TOKENS, seed), id_tokens(ID_TOKENS, 99))
        patched = apply_identity(patched, Applied(pulid, identity, WEIGHT, Window()))
    comfy.model_management.load_models_gpu([patched, *patched.get_additional_models_with_key(KEY)])
    injection = injection_of(patched)
    run = injection.start_run(model.model.model_sampling, [])
    options = {"sigmas": torch.tensor([0.6]), "cond_or_uncond": [0]}
    call = injection.make_call(run, latent, options, patched.model)
    catcher = Catcher(model.model.diffusion_model)
    diffusion_model(catcher, transformer_options=options, **{KEY: call})

    def hook_of(identity_block: IdentityBlock) -> Hook:
        return lambda args, extra, out: replace(identity_block, before=lambda *_: out)(args, extra)

    return {block: hook_of(found) for block, found in catcher.dit.items()}


class Catcher:
    """Stands for FLUX's forward and keeps the block functions it is given."""

    def __init__(self, transformer: torch.nn.Module):
        self.class_obj = transformer
        self.dit: dict[Block, IdentityBlock] = {}

    def __call__(self, *, transformer_options: dict) -> None:
        self.dit = transformer_options["patches_replace"]["dit"]


def authors_hooks(pulid: PulidModel, people: int, latent: Tensor) -> dict[Block, Hook]:
    """Return the authors' formula behind each block, once for each person."""
    tokens = [id_tokens(ID_TOKENS, seed).to(latent) for seed in range(people)]
    layers = [layer.to(latent.device, latent.dtype) for layer in pulid.layers]

    def hook_of(name: str, layer: CrossAttention) -> Hook:
        def hook(args: dict, extra: dict, out: dict) -> dict:
            img = out["img"]
            text = TEXT_TOKENS if name == "single_block" else 0  # it comes first
            picture = img[:, text:]
            for identity in tokens:
                picture = picture + WEIGHT * authors_attention(layer, identity, picture)
            return {**out, "img": torch.cat((img[:, :text], picture), 1) if text else picture}

        return hook

    return {
        (name, index): hook_of(name, layers[layer])
        for name, index, layer in block_layers(DOUBLES, SINGLES)
    }
