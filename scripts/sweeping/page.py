"""The report of a sweep: results.csv and .json, grid, plot, and one page that holds it all."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .folder import Folder, write
from .plan import Cell
from .plots import caption, grid, scatter, thumbnail
from .results import Setting, as_csv, recommended, rows_of, settings_of

TEMPLATE = Path(__file__).with_suffix(".html")


def report(
    cells: Sequence[Cell], names: Sequence[str], folder: Folder, workflow: str, against: str
) -> Setting | None:
    """Write the results of a finished sweep into its folder; return the recommended setting."""
    rows = rows_of(cells, folder)
    settings = settings_of(rows, names, against)
    best = recommended(settings)
    measured = [folder.numbers(one) for one in cells]
    alike = measured[0]["alike"]
    plot = scatter(rows, settings, best, against, alike["same_person_range"])
    summary = {
        "workflow": workflow,
        "against": against,
        "judge": alike["judge"],
        "recommended": None if best is None else dict(best.values),
        "settings": [{**vars(one), "values": dict(one.values)} for one in settings],
        "rows": rows,
    }
    write(folder.path / "results.csv", as_csv(rows))
    write(folder.path / "results.json", json.dumps(summary, indent=1, ensure_ascii=False))
    write(folder.path / "scatter.png", plot)
    write(folder.path / "grid.jpg", grid(rows, names, folder.path, best))
    page = render(summary, settings, best, names, folder.path, plot, judging(measured))
    write(folder.path / "report.html", page)
    return best


def judging(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the judge had to say that is not about a single picture."""
    said = (note for one in measured for note in one["notes"])
    general = ("The recogniser", "No same-person range", "The judge")
    return list(dict.fromkeys(note for note in said if note.startswith(general)))


def render(
    summary: Mapping[str, Any],
    settings: Sequence[Setting],
    best: Setting | None,
    names: Sequence[str],
    folder: Path,
    plot: bytes,
    notes: Sequence[str],
) -> str:
    """Return the page; it needs no other file."""
    import jinja2

    rows = summary["rows"]
    photos = list(dict.fromkeys(row["photo"] for row in rows))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(
        title="Which setting: " + (", ".join(names) or "as it is"),
        workflow=summary["workflow"],
        rows=rows,
        photos=photos,
        seeds=list(dict.fromkeys(row["seed"] for row in rows)),
        names=names,
        settings=settings,
        ordered=sorted(enumerate(settings, 1), key=lambda pair: -likeness(pair[1])),
        best=best,
        against=summary["against"],
        judge=summary["judge"],
        notes=notes,
        plot=base64.b64encode(plot).decode(),
        pictures=[
            (photo, lines([row for row in rows if row["photo"] == photo], settings, best, folder))
            for photo in photos
        ],
    )


def likeness(one: Setting) -> float:
    """Return how alike a setting is; below every cosine where no face was found."""
    return -2.0 if one.similarity is None else one.similarity


def lines(
    rows: Sequence[Mapping[str, Any]],
    settings: Sequence[Setting],
    best: Setting | None,
    folder: Path,
) -> list[dict[str, Any]]:
    """Return one photo's pictures: without identity, then setting by setting."""
    plain = {row["seed"]: row for row in rows}
    found = [
        {
            "label": "without identity",
            "chosen": False,
            "cells": [
                {"seed": seed, "data": embedded(folder / row["without"]), "caption": ""}
                for seed, row in plain.items()
            ],
        }
    ]
    for one in settings:
        own = [row for row in rows if all(row[k] == v for k, v in one.values.items())]
        cells = [
            {
                "seed": row["seed"],
                "data": embedded(folder / row["picture"]),
                "caption": caption(row),
            }
            for row in own
        ]
        found.append({"label": one.name, "chosen": one is best, "cells": cells})
    return found


def embedded(path: Path) -> str:
    """Return a small copy of a picture for the page."""
    data = io.BytesIO()
    thumbnail(path).save(data, "JPEG", quality=82)
    return base64.b64encode(data.getvalue()).decode()
