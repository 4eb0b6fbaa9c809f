"""The titles by which programs find nodes, as the table in docs/api.md; made from the workflows.

python scripts/titles.py            print it
python scripts/titles.py --write    put it into docs/api.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
START, END = "<!-- titles: start -->\n", "<!-- titles: end -->\n"
ALL_BUT = 3  # so many exceptions are said in place of all the others
FAMILIES = ("flux_pulid_", "sdxl_pulid_")


def main(arguments: list[str]) -> int:
    """Print the tables, or write them."""
    if "--write" in arguments:
        PAGE.write_text(replaced(PAGE.read_text("utf-8")), encoding="utf-8")
    else:
        print(tables())
    return 0


def replaced(page: str) -> str:
    """Return the page with today's tables in it."""
    before, _, rest = page.partition(START)
    return before + START + "\n" + tables() + "\n" + END + rest.partition(END)[2]


def tables() -> str:
    """Return a table for each family: title, inputs that can be set, workflows that have it."""
    parts = []
    for family in FAMILIES:
        files = sorted((ROOT / "workflows" / "api").glob(f"{family}*.json"))
        rows = ["| Title | Inputs | In |", "|---|---|---|"]
        rows += [row(title, *what, files) for title, what in found(files).items()]
        parts.append(f"**`{family}…`**\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def found(files: list[Path]) -> dict[str, tuple[list[str], list[str]]]:
    """Return title -> names of its inputs that are not links, names of the workflows with it."""
    titles: dict[str, tuple[list[str], list[str]]] = {}
    for file in files:
        for node in json.loads(file.read_text("utf-8")).values():
            inputs = [k for k, v in node["inputs"].items() if not isinstance(v, list)]
            names, where = titles.setdefault(node["_meta"]["title"], ([], []))
            names += [name for name in inputs if name not in names]
            if inputs:
                where.append(short(file))
    return {title: what for title, what in titles.items() if what[1]}


def row(title: str, inputs: list[str], where: list[str], files: list[Path]) -> str:
    """Return a title's row."""
    names = ", ".join(f"`{name}`" for name in inputs)
    lacking = [name for name in map(short, files) if name not in where]
    place = ", ".join(where)
    if len(lacking) <= ALL_BUT:
        place = f"all but {', '.join(lacking)}" if lacking else "all"
    return f"| {title} | {names} | {place} |"


def short(file: Path) -> str:
    """Return a workflow's name without its family."""
    return re.sub("|".join(FAMILIES), "", file.stem)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
