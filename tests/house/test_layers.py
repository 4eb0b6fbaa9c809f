"""Who may import whom and when, and how large things may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import CLIENT, PACK, ROOT

HOST_ONLY = {"nodes", "folder_paths", "server", "execution"}
OPTIONAL = {
    "insightface",
    "onnxruntime",
    "facexlib",
    "open_clip",
    "timm",
    "cv2",
    "scipy",
    "skimage",
}
OPTIONAL |= {"onnx", "onnx2torch", "accelerate", "bitsandbytes", "tensorboard", "matplotlib"}


def imports(path: Path) -> set[str]:
    """Return the absolute and relative imports of a file, as written."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set().union(*(imports_of(node) for node in ast.walk(tree)))


def imports_of(node: ast.AST) -> set[str]:
    """Return what a statement imports; relative imports begin with their dots."""
    if isinstance(node, ast.Import):
        return {name.name for name in node.names}
    if isinstance(node, ast.ImportFrom):
        return {"." * node.level + (node.module or "")}
    return set()


# Who may know whom; the modules beside the folders (``state_dicts`` …) may be known by all.
KNOWS = {
    "encoders": set(),
    "identity": set(),
    "pulid_flux": {"identity"},
    "pulid_sdxl": {"identity"},
    "measure": {"encoders"},
    "training": {"encoders", "identity", "measure", "pulid_flux", "pulid_sdxl"},
    "micro_world": {"encoders", "training"},
    "nodes": {"encoders", "identity", "measure", "pulid_flux", "pulid_sdxl"},
}


@pytest.mark.parametrize("folder", KNOWS)
def test_every_folder_imports_only_what_it_may_know(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        outside = "." * (len(path.relative_to(ROOT).parts))  # dots that reach the pack's root
        for name in imports(path):
            first = name.lstrip(".").split(".")[0]
            if folder != "nodes":
                assert first not in HOST_ONLY, f"{path.name} imports {name}"
            if name.startswith(outside) and (ROOT / first).is_dir():
                assert first in KNOWS[folder], f"{path.name} imports {name}"


@pytest.mark.parametrize("folder", KNOWS)
def test_nothing_prints_or_touches_the_world(folder):
    banned = {"print", "eval", "exec", "__import__"}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned, f"{path.name}:{node.lineno}"


def at_import(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that run when a file is imported."""
    for node in ast.iter_child_nodes(tree):
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from at_import(node)


@pytest.mark.parametrize("path", PACK, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_for_photos_are_imported_where_they_are_used(path):
    """ComfyUI starts without them; what is said where one is absent: encoders/test_packages.py."""
    for node in at_import(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = imports_of(node)
            assert not {name.split(".")[0] for name in names} & OPTIONAL, node.lineno


@pytest.mark.parametrize("path", CLIENT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_client_needs_neither_the_pack_nor_comfyui(path):
    allowed = {*sys.stdlib_module_names, "aiohttp", "pulid_client"}
    if path.parent.name == "pulid_farm":
        allowed |= {"fsspec", "ray"}
    used = {name.split(".")[0] for name in imports(path) if not name.startswith(".")}
    assert used <= allowed | {"typing_extensions"}


def test_files_and_nodes_are_small():
    """A file is one subject, an ``execute`` a delegation; what is more belongs elsewhere."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in (*PACK, *CLIENT)}
    assert {path.relative_to(ROOT): n for path, n in lines.items() if n >= 250} == {}
    executes = sorted(
        node.end_lineno - node.lineno + 1
        for path in (ROOT / "nodes").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "execute"
    )
    assert len(executes) >= 9  # one for each node
    assert executes[-1] <= 20 and executes[len(executes) // 2] <= 8, executes
