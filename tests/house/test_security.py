"""The pack opens no connection, runs no code from files, and asks for sane packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from places import PACK, ROOT, TESTS

# modules through which code or data could come from outside
FORBIDDEN_MODULES = {
    *("ftplib", "http", "httpx", "huggingface_hub", "pip", "requests", "smtplib", "socket", "ssl"),
    *("subprocess", "urllib", "urllib3", "webbrowser", "wget", "gdown"),
    *("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "ctypes"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "os.startfile", "torch.load", "torch.hub.load", "np.load"),
    *("torch.hub.load_state_dict_from_url", "torch.compile"),
}

RUN = """
import socket, sys, urllib.request

TESTS, MODELS, WORK = sys.argv[1:]
sys.path.insert(0, TESTS)
import real_host
import skimage.data, torch
import folder_paths

tried = []

def forbid(event, arguments):
    network = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind")
    if event in network or event.startswith(("subprocess.", "os.system", "os.exec", "urllib.")):
        tried.append(f"{event} {arguments!r}")
        raise PermissionError(f"{event} is not allowed here")

sys.addaudithook(forbid)  # below Python's own modules: it sees every connection of the process
try:
    urllib.request.urlopen("http://127.0.0.1:9")
except OSError:
    pass
assert tried, "the hook sees nothing"
tried.clear()

from pathlib import Path
from pulid_pack.nodes import apply, encode, folders, identities, load
from standins.lab import sample, small_flux
from standins import models

folder_paths.models_dir = MODELS
folder_paths.set_temp_directory(f"{WORK}/temp")
folder_paths.set_output_directory(f"{WORK}/output")
for name in folders.OWN_FOLDERS:
    folder_paths.add_model_folder_path(name, f"{MODELS}/{name}", is_default=True)
folder_paths.add_model_folder_path("pulid_identities", WORK, is_default=True)

with torch.inference_mode():
    pulid = load.PuLIDFluxLoadModel.execute(Path(models.PULID).name)[0]
    eva = load.PuLIDFluxLoadEVACLIP.execute(Path(models.EVA_CLIP).name)[0]
    parsing, retina = Path(models.PARSING).name, Path(models.RETINAFACE).name
    faces = load.PuLIDFluxLoadInsightFace.execute("antelopev2", "auto", parsing, retina)[0]
    photo = torch.from_numpy(skimage.data.astronaut())[None].float() / 255
    options = ("largest", 0, "joint", "error", True)
    identity = encode.PuLIDFluxEncodeIdentity.execute(pulid, eva, faces, photo, *options)[0]
    identities.PuLIDFluxSaveIdentity.execute(identity, "anna", True, "float16", photo)
    loaded = identities.PuLIDFluxLoadIdentity.execute("anna.safetensors")[0]
    mixed = identities.PuLIDFluxBlendIdentities.execute(
        "spherical", identity_1=identity, identity_2=loaded, weight_1=1.0, weight_2=1.0
    )[0]
    flux = small_flux(pulid.width)
    patched = apply.PuLIDFluxApplyIdentity.execute(flux, pulid, mixed, 1.0, 0.0, 1.0)[0]
    assert not torch.equal(sample(flux, steps=2), sample(patched, steps=2))
    for missing in (load.PuLIDFluxLoadModel, load.PuLIDFluxLoadEVACLIP):
        try:
            missing.execute("absent.safetensors")  # what is absent is not fetched either
        except FileNotFoundError:
            pass
assert not tried, tried
print("done without a connection")
"""


def test_no_node_opens_a_connection_or_starts_a_process(models, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(TESTS), str(models), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done without a connection" in done.stdout
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert written <= {"temp", "output", "anna.safetensors"}


def dotted(node: ast.AST) -> str:
    """Return the name of what is called, such as os.system."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(source: str) -> list[str]:
    """Return the forbidden imports and calls in ``source``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        found += [f"import {n}" for n in names if n.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Attribute) and node.attr in ("ClientSession", "request"):
            found.append(dotted(node))  # of aiohttp only the server's side is used
        if isinstance(node, ast.Call):
            if (name := dotted(node.func)) in FORBIDDEN_CALLS:
                found.append(name)
            safe = [k.value for k in node.keywords if k.arg == "safe_load"]
            if name.endswith("load_torch_file") and not (safe and safe[0].value is True):
                found.append(f"{name} without safe_load")
            unsafe = [k for k in node.keywords if k.arg in ("shell", "allow_pickle")]
            found += [f"{name}({k.arg}=…)" for k in unsafe]
    return found


@pytest.mark.parametrize("path", PACK, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_eval_no_pickle_no_network_in_the_sources(path):
    assert findings(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "eval('1')",
        "x = torch.load(p)",
        "comfy.utils.load_torch_file(p)",
        "comfy.utils.load_torch_file(p, safe_load=False)",
        "run(x, shell=True)",
        "aiohttp.ClientSession()",
    ],
)
def test_the_look_at_the_sources_finds(line):
    assert findings(line)


def requirements(name: str) -> list[Requirement]:
    """Return the packages that a requirements file names."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_requirements_are_few_sane_and_met():
    """Named once, from the index, with a lower bound only; nothing that ComfyUI brings itself."""
    from pulid_pack.encoders.packages import PIP_NAMES

    needed = requirements("requirements.txt")
    names = [r.name for r in needed]
    assert len(set(names)) == len(names)
    assert set(names) <= set(PIP_NAMES.values())
    for each in needed:
        assert each.url is None, f"{each} does not come from the index"
        assert {s.operator for s in each.specifier} == {">="}, f"{each}: a lower bound and no more"
        assert each.specifier.contains(metadata.version(each.name)), f"{each} is not met"
    for each in requirements("tests/requirements.txt"):
        assert each.url is None and each.name not in names
        assert each.specifier.contains(metadata.version(each.name)), f"{each} is not met"


def test_every_third_party_package_that_is_imported_is_named():
    """What the sources import is ComfyUI's, Python's own, or in requirements.txt.

    For training, requirements-train.txt has more.
    """
    from pulid_pack.encoders.packages import PIP_NAMES

    host = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "server", "nodes"}
    host |= {"torch", "numpy", "PIL", "safetensors", "comfyui_version", "comfy_extras", "aiohttp"}
    local = {path.stem for path in PACK}
    training = {each.name for each in requirements("requirements-train.txt")}
    # micro_world has commands, which set the host up and load the pack as a package of that name
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} | {"pulid_pack"}
    for path in PACK:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                known = host | local | set(sys.stdlib_module_names) | set(PIP_NAMES)
                known |= training if path.is_relative_to(ROOT / "training") else set()
                known |= scripts if path.is_relative_to(ROOT / "micro_world") else set()
                assert name in known, f"{path.name} imports {name}"


def test_no_address_is_opened_by_the_page_script():
    """The little JavaScript talks to the page it is in and to no other address."""
    for path in (ROOT / "js").glob("*.js"):
        addresses = re.findall(r"https?://[^\s\"'`)]+", path.read_text("utf-8"))
        assert not addresses, f"{path.name}: {addresses}"
