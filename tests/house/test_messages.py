"""Every error that the pack raises is explained in docs/errors.md, and nothing else is."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from places import PACK, ROOT

RAISED = ("ValueError", "NoFace", "FileNotFoundError", "RuntimeError")
PAGE = ROOT / "docs" / "errors.md"
HEADINGS = ("The message says", "Cause", "What to do")
GAP = "\0"  # stands for a value in a text
LEAST = 9  # letters of a text on the page, without its gaps: fewer would fit anything


@dataclass(frozen=True)
class Raised:
    """A text of the sources with a gap for each value, and where it stands."""

    where: str
    text: str


def text_of(node: ast.AST, constants: dict[str, str]) -> str:
    """Return a string expression's text, with gaps."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) for part in node.values)
    if isinstance(node, ast.Name):
        return constants.get(node.id, GAP)
    if isinstance(node, ast.BinOp):
        return text_of(node.left, constants) + text_of(node.right, constants)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "format":
            return re.sub(r"\{\w*\}", GAP, text_of(node.func.value, constants))
        if node.func.attr == "join":  # of texts that stand elsewhere
            return GAP
    return GAP


def own_attribute(node: ast.AST) -> str:
    """Return the name in ``self.NAME.format(…)``, or nothing: each class has a text of its own."""
    value = node.func.value if isinstance(node, ast.Call) else None
    own = isinstance(value, ast.Attribute) and getattr(value.value, "id", "") == "self"
    return value.attr if own else ""


@cache
def attributes() -> dict[str, list[Raised]]:
    """Return the texts that classes set as attributes, by the attribute's name."""
    found: dict[str, list[Raised]] = {}
    for path in PACK:
        tree = ast.parse(path.read_text("utf-8"))
        constants = module_constants(tree)
        for node in (n for c in tree.body if isinstance(c, ast.ClassDef) for n in c.body):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                text = re.sub(r"\{\w*\}", GAP, text_of(node.value, constants))
                where = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
                found.setdefault(node.targets[0].id, []).append(Raised(where, text))
    return found


def module_constants(tree: ast.Module) -> dict[str, str]:
    """Return the texts of a module's constants."""
    return {
        target.id: text_of(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@cache
def texts(raised_only: bool) -> list[Raised]:
    """Return the texts of all errors raised, or all texts there are (for warnings too)."""
    found = []
    for path in PACK:
        tree = ast.parse(path.read_text("utf-8"))
        constants = module_constants(tree)
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISED:
                assert node.args, f"{where}: an error without a text"
                if isinstance(node.args[0], ast.Starred):
                    continue  # the text of an error that is raised anew
                if name := own_attribute(node.args[0]):
                    assert attributes().get(name), f"{where}: no class has the text {name}"
                    found += [each for each in attributes()[name] if each not in found]
                else:
                    found.append(Raised(where, text_of(node.args[0], constants)))
            elif not raised_only and isinstance(node, (ast.JoinedStr, ast.Constant)):
                found.append(Raised(where, text_of(node, constants)))
    return found


def fits(fragment: str, text: str) -> bool:
    """Return whether the parts of ``fragment`` between its … stand in ``text``, in order."""
    place = 0
    for part in fragment.split("…"):
        place = text.find(part.strip(), place)
        if place < 0:
            return False
        place += len(part.strip())
    return True


def page() -> list[tuple[str, str, str]]:
    """Return the rows of the page's tables: messages, cause, cure."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines]
    assert all(len(row) == len(HEADINGS) for row in rows), rows
    return [row for row in rows if row != HEADINGS and set("".join(row)) != {"-"}]


def fragments() -> list[str]:
    """Return the messages in backticks in the tables' first column."""
    return [text for row in page() for text in re.findall(r"`([^`]+)`", row[0])]


def letters(text: str) -> int:
    return len(re.sub(r"[^\w]", "", text))


@pytest.mark.parametrize("raised", texts(raised_only=True), ids=lambda raised: raised.where)
def test_every_error_is_on_the_page(raised):
    if letters(raised.text) == 0:
        # it joins texts of others, which are looked at where they are made
        assert "problems" in Path(ROOT / raised.where.split(":")[0]).read_text("utf-8"), (
            f"{raised.where}: a text that this test cannot read"
        )
        return
    known = [fragment for fragment in fragments() if fits(fragment, raised.text)]
    assert known, f"{raised.where}: docs/errors.md does not explain {raised.text!r}"


@pytest.mark.parametrize("fragment", fragments())
def test_every_message_on_the_page_exists(fragment):
    assert letters(fragment) >= LEAST, "too little to recognise a message by"
    assert any(fits(fragment, each.text) for each in texts(raised_only=False)), (
        f"docs/errors.md explains {fragment!r}, which the pack does not say"
    )


def test_every_row_has_cause_and_cure():
    for messages, cause, cure in page():
        assert "`" in messages and len(cause) > 8 and len(cure) > 8, messages
