"""The mutants of the method's files: which there are, which tests cover them, which may survive."""

from __future__ import annotations

import ast
import difflib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutant_tests import FILES

REASONS = Path(__file__).with_name("mutants.json")
# Same result in almost every program: `is` for `==` on small values, `==` for `is` on None. The
# variable operators need arguments and random numbers.
LEFT_OUT = ("_Is", "_IsNot", "Is_Eq", "IsNot_NotEq", "VariableReplacer", "VariableInserter")
# Arguments that guard against slips in the pack's own code, or say how an error report shows a
# record: what they guard against happens nowhere, so either value gives the same pictures.
GUARDS = ("frozen", "kw_only", "strict", "repr", "compare")


@dataclass(frozen=True)
class Mutant:
    """One change of one file: ``code`` is the whole file with it."""

    number: int
    file: str
    line: int
    operator: str
    before: str  # the first changed line
    after: str
    code: str

    def row(self) -> dict[str, str | int]:
        """Return what the table shows."""
        return {k: v for k, v in vars(self).items() if k != "code"}


@dataclass
class Result:
    """What became of a mutant: how is 'killed', 'time limit' or 'survived'."""

    mutant: Mutant
    how: str
    seconds: float
    reason: str = ""


def left_out_lines(source: str) -> set[int]:
    """Return the lines that say nothing to a test: annotations alone, and messages' texts."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        call = node.value if isinstance(node, ast.Expr) else None
        logs = isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.")
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.Raise) or logs or typing:
            lines.update(range(node.lineno, node.end_lineno + 1))
    return lines


def left_out_parts(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations and guards' values begin and end, as (line, column)."""
    parts = []
    for node in ast.walk(ast.parse(source)):
        parts += [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Call):
            parts += [k.value for k in node.keywords if k.arg in GUARDS]
    ends = (part for part in parts if part is not None)
    return [((p.lineno, p.col_offset), (p.end_lineno, p.end_col_offset)) for p in ends]


def mutants_of(root: Path, file: str) -> Iterator[tuple[tuple[int, int], str, int]]:
    """Yield (line, column), operator and occurrence of every change of ``file``."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (root / file).read_text(encoding="utf-8")
    skipped, parts = left_out_lines(source), left_out_parts(source)
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[str, list[tuple[int, int]]] = {}
    for name in operator_names():
        if name.endswith(LEFT_OUT):
            continue
        pairs = "BinaryOperator" in name or "ComparisonOperator" in name
        kind = name.rsplit("_", 1)[0] if pairs else name  # X_to_Y is where any X is
        if kind not in found:
            operator = get_operator(name)()
            found[kind] = [start for n in nodes for start, _ in operator.mutation_positions(n)]
        for occurrence, start in enumerate(found[kind]):
            if start[0] not in skipped and not any(a <= start < b for a, b in parts):
                yield start, name, occurrence


def draw(root: Path, files: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Draw ``count`` mutants, from each file as many as its length asks for.

    Places are drawn first and then one of a place's changes: otherwise every plus, which has eleven
    of them, would count eleven times. Changes that do not compile or change nothing are left out.
    """
    lengths = [len((root / file).read_text(encoding="utf-8").splitlines()) for file in files]
    chosen: list[Mutant] = []
    for i, file in enumerate(files):
        share = round(count * sum(lengths[: i + 1]) / sum(lengths)) - round(
            count * sum(lengths[:i]) / sum(lengths)
        )
        rng = random.Random(f"{seed} {file}")  # the same ones, whatever the other files
        source = (root / file).read_text(encoding="utf-8")
        places = defaultdict(list)
        for place, operator, occurrence in mutants_of(root, file):
            places[place].append((operator, occurrence))
        for changes in places.values():
            rng.shuffle(changes)
        own: list[Mutant] = []
        while places and len(own) < share:
            for place in rng.sample(sorted(places), len(places)):
                if len(own) == share:
                    break
                operator, occurrence = places[place].pop()
                if not places[place]:
                    del places[place]
                code = mutated(source, operator, occurrence)
                if code is not None:
                    before, after = first_change(source, code)
                    number = len(chosen) + len(own)
                    own.append(Mutant(number, file, place[0], operator, before, after, code))
        chosen += own
    return chosen


def mutated(source: str, operator: str, occurrence: int) -> str | None:
    """Return the changed code, None where it is no Python or the same."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = mutate_code(source, get_operator(operator)(), occurrence)
    try:
        same = code is None or ast.dump(ast.parse(code)) == ast.dump(ast.parse(source))
        compile(code or "", "mutant", "exec")
    except SyntaxError:
        return None
    return None if same else code


def first_change(source: str, code: str) -> tuple[str, str]:
    """Return the first line that differs, before and after."""
    pairs = zip(source.splitlines(), code.splitlines(), strict=False)
    before, after = next(((a, b) for a, b in pairs if a != b), ("", ""))
    return before.strip(), after.strip()


def reason_of(mutant: Mutant) -> str:
    """Return why this mutant may survive, from mutants.json; empty if nobody has said."""
    reasons = json.loads(REASONS.read_text(encoding="utf-8"))
    change = f"{mutant.before} -> {mutant.after}"
    return reasons.get(mutant.file, {}).get(change, "") or reasons["*"].get(change, "")


def table(root: Path, results: Sequence[Result], seed: int) -> str:
    """Return the score by file and every survivor, as markdown."""
    dead = [r for r in results if r.how != "survived"]
    late = sum(r.how == "time limit" for r in results)
    mean = sum(r.seconds for r in results) / max(1, len(results))
    text = [
        f"{len(dead)} of {len(results)} mutants died ({100 * len(dead) / len(results):.1f} %; "
        f"{late} by the time limit), seed {seed}, {mean:.1f} s a mutant.\n",
        "| file | mutants | dead |\n|---|---|---|",
    ]
    for file in FILES:
        own = [r for r in results if r.mutant.file == file]
        if own:
            text.append(f"| {file} | {len(own)} | {sum(r.how != 'survived' for r in own)} |")
    for r in (r for r in results if r.how == "survived"):
        m = r.mutant
        changed = difflib.unified_diff(
            (root / m.file).read_text().splitlines(), m.code.splitlines(), lineterm="", n=0
        )
        lines = [line for line in changed if line[0] in "+-" and line[:3] not in ("+++", "---")]
        text.append(f"\n{m.file}:{m.line} {m.operator}. {r.reason or 'NO REASON GIVEN'}\n")
        text += ["```diff", *lines, "```"]
    return "\n".join(text) + "\n"
