"""The ablation's figures, table and picture grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..training import adapter_files
from .apprentice import Apprentice
from .held_out import HeldOut
from .recipes import ABLATION, ALIGNED, QUESTIONS, SHIPPED, SHOWN, UNALIGNED
from .sheets import sheet
from .world import World

WEIGHTS = (0.4, 0.6, 0.8, 1.0, 1.3)
ROWS = 6  # people of the grid
Tell = Callable[[str], None]


def compare(
    world: World, folder: Path, seeds: Sequence[int], count: int, tell: Tell
) -> dict[str, Any]:
    """Return every variant's figures: means, and each picture's for paired differences.

    The people, their prompts (those of others) and the noise are the same for all.
    """
    people = HeldOut(world, count)
    found: dict[str, Any] = {"people": count, "seeds": list(seeds), "variants": {}}
    found["floor"] = people.figures(people.judged(None, 0.0))
    found["ceiling"] = people.ceiling
    for seed in seeds:
        apprentice = Apprentice(world, folder, seed, tell)
        for variant in ABLATION:
            adapter = adapter_files.load(apprentice.train(variant))
            tell(f"seed {seed}: judging {variant}")
            judged = {f"{weight:g}": people.judged(adapter, weight) for weight in WEIGHTS}
            rows = {weight: people.figures(one) for weight, one in judged.items()}
            every = {k: v.tolist() for k, v in vars(judged["1"]).items()}
            kept = found["variants"].setdefault(variant, {})
            kept[f"{seed}"] = {"weights": rows, "each": every}
    return found


def paired(found: dict[str, Any], better: str, worse: str, name: str = "likeness") -> list[str]:
    """Return, for each seed, by how many paired standard errors one variant is above another."""
    lines = []
    for seed in found["seeds"]:
        a, b = (
            torch.tensor(found["variants"][v][f"{seed}"]["each"][name]) for v in (better, worse)
        )
        gap = a - b
        error = float(gap.std() / len(gap) ** 0.5)
        times = float(gap.mean()) / max(error, 1e-9)
        lines.append(f"seed {seed}: {float(gap.mean()):+.3f} ± {error:.3f} ({times:.1f} errors)")
    return lines


def at_likeness(rows: dict[str, dict[str, float]], wanted: float, name: str) -> float:
    """Return a figure at the least weight of a wanted likeness, between those that were drawn."""
    pairs = [(row["likeness"], row[name]) for _, row in sorted(rows.items(), key=by_weight)]
    for (low, first), (high, second) in zip(pairs, pairs[1:], strict=False):
        if low <= wanted <= high:
            return first + (second - first) * (wanted - low) / max(high - low, 1e-9)
    return float("nan")


def by_weight(pair: tuple[str, Any]) -> float:
    return float(pair[0])


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    floor = found["floor"]
    lines = [
        f"{found['people']} held-out people, their prompts those of others, four steps. Likeness: "
        "cosine by the recogniser that only measures, of the photo and the picture; two drawings "
        f"of one person have {found['ceiling']:.3f}, without identity {floor['likeness']:.3f}. "
        "Faces: the share of the pictures in which one is found; a picture without one counts 0. "
        "Outside: mean change outside the heads, of 255. Words: the share of the prompt that is "
        f"read back ({floor['words']:.3f} without identity). Light: correlation with the photo's.",
        "",
        "| losses | seed | likeness | faces | outside | words | light |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, seeds in found["variants"].items():
        for seed, both in seeds.items():
            row = both["weights"]["1"]
            lines.append(
                f"| {variant} | {seed} | {row['likeness']:.3f} ± {row['error']:.3f} | "
                f"{row['faces']:.2f} | {row['outside']:.1f} | {row['words']:.3f} | "
                f"{row['light']:+.2f} |"
            )
    lines += [
        "",
        "The weight beside it:",
        "",
        "| losses | seed | weight: likeness, outside, words |",
    ]
    lines.append("|---|---|---|")
    for variant, seeds in found["variants"].items():
        for seed, both in seeds.items():
            cells = [
                f"{w}: {r['likeness']:.2f}, {r['outside']:.1f}, {r['words']:.2f}"
                for w, r in both["weights"].items()
            ]
            lines.append(f"| {variant} | {seed} | {' / '.join(cells)} |")
    lines += ["", "Paired differences of likeness at weight 1:", ""]
    for better, worse in QUESTIONS:
        lines += [f"- {better} above {worse}: {line}" for line in paired(found, better, worse)]
    lines += ["", f"At the likeness that '{ALIGNED}' has at weight 1:", ""]
    for seed in found["seeds"]:
        own = found["variants"][ALIGNED][f"{seed}"]["weights"]
        other = found["variants"][UNALIGNED][f"{seed}"]["weights"]
        wanted = own["1"]["likeness"]
        for name in ("outside", "words"):
            rest = at_likeness(other, wanted, name)
            lines.append(f"- seed {seed}, {name}: {own['1'][name]:.3f}, {UNALIGNED}: {rest:.3f}")
    return "\n".join([*lines, ""])


def grid(
    world: World, folder: Path, seed: int, tell: Tell, shipped: Path | None = None
) -> Image.Image:
    """Return a picture: a person a row, the photo, without identity, and each variant.

    shipped: the adapter that was trained for longer, for the last column.
    """
    people, apprentice = HeldOut(world, ROWS), Apprentice(world, folder, seed, tell)
    columns = {"photo": people.sitters, "without": people.plain}
    files = {variant: apprentice.train(variant) for variant in SHOWN}
    if shipped is not None:
        files[SHIPPED] = shipped
    for name, file in files.items():
        columns[name] = people.pictures(adapter_files.load(file), 1.0)
    return sheet(columns)
