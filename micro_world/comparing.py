"""The ablation's figures, table and picture grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..training import adapter_files
from ..training.dataset import Sample
from ..training.trainable import trainable
from .album import HELD_OUT, on_another_day, samples
from .apprentice import Apprentice
from .judging import Judged, correlation, draw, judge
from .people import draw_people
from .pool import SIDE
from .recipes import SHIPPED, VARIANTS
from .renderer import photo, render
from .sheets import sheet
from .world import World

WEIGHTS = (0.4, 0.6, 0.8, 1.0, 1.3)
NOISE = 7  # seed of the pictures' noise
SHOWN = 6  # people of the grid
Tell = Callable[[str], None]


def compare(
    world: World, folder: Path, seeds: Sequence[int], count: int, tell: Tell
) -> dict[str, Any]:
    """Return every variant's figures: means, and errors of the paired differences.

    The people, their prompts (those of others) and the noise are the same for all.
    """
    own, prompts, photos, people = held_out(world, count)
    found: dict[str, Any] = {"people": count, "seeds": list(seeds), "variants": {}}
    models = world.models()
    with trainable(models.base, torch.float32, recompute=False) as base, torch.no_grad():
        plain = draw(models, base, None, own, prompts, 0.0, NOISE)
        nobody = judge(world, plain, plain, photos, people)
        found["floor"] = figures(nobody, own)
        true = world.vectors(world.judge)(render(draw_people(count, HELD_OUT), SIDE))[0]
        found["ceiling"] = float(torch.cosine_similarity(photos, true, dim=-1).mean())
    for seed in seeds:
        apprentice = Apprentice(world, folder, seed, tell)
        for variant in VARIANTS:
            path = apprentice.train(variant)
            tell(f"seed {seed}: judging {variant}")
            adapter = adapter_files.load(path)
            with trainable(models.base, torch.float32, recompute=False) as base, torch.no_grad():
                rows = {}
                for weight in WEIGHTS:
                    pictures = draw(models, base, adapter, own, prompts, weight, NOISE)
                    judged = judge(world, pictures, plain, photos, people)
                    rows[f"{weight:g}"] = figures(judged, own)
                    if weight == 1.0:
                        every = {k: v.tolist() for k, v in vars(judged).items()}
            kept = found["variants"].setdefault(variant, {})
            kept[f"{seed}"] = {"weights": rows, "each": every}
    return found


def held_out(world: World, count: int) -> tuple[list[Sample], list[Sample], Tensor, Any]:
    """Return people nobody was trained on: samples, whose prompts, judge's photo vectors, words."""
    own = samples(world, count, HELD_OUT, same_day=False)
    people = draw_people(count, HELD_OUT)
    turned = [*range(1, count), 0]  # each gets the next one's prompt
    with torch.no_grad():
        photos = world.vectors(world.judge)(photo(on_another_day(people, HELD_OUT), SIDE))[0]
    return own, [own[i] for i in turned], photos, people[turned]


def figures(judged: Judged, own: Sequence[Sample]) -> dict[str, float]:
    """Return the means, and the standard error of the likeness."""
    bright = torch.stack([one.crop.mean() for one in own])
    count = len(judged.likeness)
    return {
        "likeness": float(judged.likeness.mean()),
        "error": float(judged.likeness.std() / count**0.5),
        "outside": float(judged.outside.mean()),
        "words": float(judged.words.mean()),
        "light": correlation(bright, judged.light) if judged.light.std() > 0 else 0.0,
    }


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
    """Return a figure at the weight of a wanted likeness, between the weights that were drawn."""
    pairs = sorted((row["likeness"], row[name]) for row in rows.values())
    for (low, first), (high, second) in zip(pairs, pairs[1:], strict=False):
        if low <= wanted <= high:
            return first + (second - first) * (wanted - low) / max(high - low, 1e-9)
    return float("nan")


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    floor = found["floor"]
    lines = [
        f"{found['people']} held-out people, their prompts those of others, four steps. Likeness: "
        "cosine by the recogniser that only measures, of the photo and the picture; two drawings "
        f"of one person have {found['ceiling']:.3f}, without identity {floor['likeness']:.3f}. "
        "Outside: mean change outside the heads, of 255. Words: the share of the prompt that is "
        f"read back ({floor['words']:.3f} without identity). Light: correlation with the photo's.",
        "",
        "| losses | seed | likeness | outside | words | light |",
        "|---|---|---|---|---|---|",
    ]
    for variant, seeds in found["variants"].items():
        for seed, both in seeds.items():
            row = both["weights"]["1"]
            lines.append(
                f"| {variant} | {seed} | {row['likeness']:.3f} ± {row['error']:.3f} | "
                f"{row['outside']:.1f} | {row['words']:.3f} | {row['light']:+.2f} |"
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
    for better, worse in (("+ naive L_id", "L_diff"), ("+ accurate L_id", "+ naive L_id")):
        lines += [f"- {better} above {worse}: {line}" for line in paired(found, better, worse)]
    lines += ["", f"At the likeness that '{SHIPPED}' has at weight 1:", ""]
    for seed in found["seeds"]:
        own = found["variants"][SHIPPED][f"{seed}"]["weights"]
        other = found["variants"]["+ accurate L_id"][f"{seed}"]["weights"]
        wanted = own["1"]["likeness"]
        for name in ("outside", "words"):
            rest = at_likeness(other, wanted, name)
            lines.append(f"- seed {seed}, {name}: {own['1'][name]:.3f}, without: {rest:.3f}")
    return "\n".join([*lines, ""])


def grid(world: World, folder: Path, seed: int, tell: Tell) -> Image.Image:
    """Return a picture: a person a row, the photo, without identity, and each variant."""
    own, prompts, _, _ = held_out(world, SHOWN)
    people = draw_people(SHOWN, HELD_OUT)
    models, apprentice = world.models(), Apprentice(world, folder, seed, tell)
    columns = {"photo": photo(on_another_day(people, HELD_OUT), SIDE)}
    with trainable(models.base, torch.float32, recompute=False) as base, torch.no_grad():
        columns["without"] = draw(models, base, None, own, prompts, 0.0, NOISE)
        for variant in VARIANTS:
            adapter = adapter_files.load(apprentice.train(variant))
            columns[variant] = draw(models, base, adapter, own, prompts, 1.0, NOISE)
    return sheet(columns)
