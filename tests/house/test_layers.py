"""Who may import whom, how large things may be, and what the pack does without its packages."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from places import ROOT

HOST_ONLY = {"nodes", "folder_paths", "server", "execution"}
OPTIONAL = {
    "insightface": "insightface",
    "onnxruntime": "onnxruntime",
    "facexlib": "facexlib",
    "open_clip": "open_clip_torch",
    "timm": "timm",
    "cv2": "opencv-python",
}


def imports(path: Path) -> set[str]:
    """Return the absolute and relative imports of a file, as written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


# Who may know whom; the modules beside the folders (``state_dicts`` …) may be known by all.
KNOWS = {
    "encoders": set(),
    "identity": set(),
    "pulid_flux": {"identity"},
    "pulid_sdxl": {"identity"},
    "nodes": {"encoders", "identity", "pulid_flux", "pulid_sdxl"},
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


PACK = [*ROOT.glob("*.py"), *(p for folder in KNOWS for p in (ROOT / folder).rglob("*.py"))]


def test_files_and_nodes_are_small():
    """A file is one subject, an ``execute`` a delegation; what is more belongs elsewhere."""
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in PACK}
    assert {name: count for name, count in lines.items() if count >= 250} == {}
    executes = sorted(
        node.end_lineno - node.lineno + 1
        for path in (ROOT / "nodes").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "execute"
    )
    assert len(executes) >= 9  # one for each node
    assert executes[-1] <= 20 and executes[len(executes) // 2] <= 8, executes


PROBE = """
import importlib.util, json, os, sys
root, host, models, photo, *blocked = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, host)
import comfy.options
comfy.options.enable_args_parsing(False)
from comfy.cli_args import args
args.cpu = True
import utils.install_util, torch, folder_paths, server
from comfy_api.latest import io, ui
import numpy as np
from pathlib import Path

class Without:
    def __init__(self, finder, name):
        self.finder, self.name = finder, name
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != self.name:
            return self.finder.find_spec(name, path, target)

def attempt(errors, name, call):
    try:
        return call()
    except Exception as error:
        errors[name] = [type(error).__name__, str(error)]

def load_pack():
    spec = importlib.util.spec_from_file_location(
        "pack", root + "/__init__.py", submodule_search_locations=[root])
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])

def use(name):
    sys.meta_path[:] = [Without(finder, name) for finder in sys.meta_path]
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]  # the host itself takes cv2 along where it is there
    heavy = {"insightface", "onnxruntime", "facexlib", "open_clip", "timm", "cv2"}
    before = set(sys.modules)
    load_pack()
    new = {m.split(".")[0] for m in set(sys.modules) - before}
    from pack.encoders.eva_clip import load_eva_clip
    from pack.encoders.faces import load_face_analysis, face_features
    from pack.pulid_flux.checkpoint import load_pulid
    folder, errors = Path(models), {}
    find = lambda pattern: next(folder.rglob(pattern))
    with torch.inference_mode():
        attempt(errors, "pulid", lambda: load_pulid(find("pulid_flux_*.safetensors")))
        eva = attempt(errors, "eva", lambda: load_eva_clip(find("EVA02*.pt")))
        faces = attempt(errors, "faces", lambda: load_face_analysis(
            find("glintr100.onnx").parent, "CPU", find("*bisenet.pth")))
        if faces and eva:
            image = torch.from_numpy(np.load(photo))
            attempt(errors, "encode", lambda: face_features(faces, eva, image))
    print("RESULT" + json.dumps([name, sorted(heavy & new), errors]), flush=True)

for name in blocked:
    if len(blocked) == 1:
        use(name)
    elif os.fork() == 0:
        use(name)
        os._exit(0)
    else:
        os.wait()
"""


@pytest.fixture(scope="module")
def without(models, host, tmp_path_factory):
    """Return, by the name of a package that is absent, what got imported and which errors rose."""
    folder = tmp_path_factory.mktemp("probe")
    photo = folder / "photo.npy"
    np.save(photo, skimage.data.astronaut()[None].astype(np.float32) / 255)
    command = [sys.executable, "-c", PROBE, str(ROOT), str(host.path), str(models), str(photo)]
    # where a process can be split, the host is imported once for all
    runs = [list(OPTIONAL)] if hasattr(os, "fork") else [[name] for name in OPTIONAL]
    found = {}
    for names in runs:
        done = subprocess.run(
            [*command, *names], capture_output=True, text=True, timeout=600, cwd=folder
        )
        for line in done.stdout.splitlines():
            if line.startswith("RESULT"):
                name, loaded, errors = json.loads(line.removeprefix("RESULT"))
                found[name] = (loaded, errors)
        assert set(names) <= set(found), done.stderr[-2000:]
    return found


@pytest.mark.parametrize("module", OPTIONAL)
def test_each_package_can_be_absent(without, module):
    loaded, errors = without[module]
    assert loaded == []
    package = OPTIONAL[module]
    assert "pulid" not in errors and errors
    for kind, text in errors.values():
        assert kind == "RuntimeError" and "pip install" in text and package in text
