"""The real host for every test: ComfyUI first on the path, the pack loaded as ComfyUI loads it."""

from __future__ import annotations

import gc
import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path

gc.disable()  # until all is imported: see pytest_collection_finish

ROOT = Path(__file__).resolve().parents[1]


def load_file(name: str, path: Path, folder: Path | None = None):
    """Import ``path`` under ``name``; ``folder`` makes it a package."""
    where = [str(folder)] if folder else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=where)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# anew: where scripts/mutate.py forks, one of another tree has been imported
hosting = load_file("hosting", ROOT / "scripts" / "hosting.py")
HOST = hosting.prepare()
sys.path.insert(0, str(HOST.path))

import comfy.options  # noqa: E402  the host's path has to be there first

comfy.options.enable_args_parsing(False)

import torch  # noqa: E402
from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()
args.use_pytorch_cross_attention = True  # what a GPU gets; a CPU's choice breaks compiled graphs

import utils.install_util  # noqa: E402, F401  before the host puts comfy/ itself on the path

load_file("pulid_pack", ROOT / "__init__.py", ROOT)
load_file("bench", ROOT / "bench" / "__init__.py", ROOT / "bench")

import pytest  # noqa: E402
from golden.fixtures import golden_encoder, golden_tower  # noqa: E402, F401
from standins.people import analysis, face_files  # noqa: E402, F401
from standins.server import basic, models, portrait, server  # noqa: E402, F401  fixtures
from standins.workshop import workshop  # noqa: E402, F401
from switches import nvidia_switches  # noqa: E402


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of Python's search for garbage, since it stays anyhow.

    The host searches whenever a model is gone; each time it took as long as many a test.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def all_switches(request):
    """Throw NVIDIA's switches for the whole run, where that was asked for."""
    with nvidia_switches() if request.config.getoption("--switches") else nullcontext():
        yield


@pytest.fixture(scope="module", params=["plain", "nvidia switches"])
def switches(request):
    """Run a module as it is, and once more with NVIDIA's switches thrown."""
    if request.param == "plain":
        yield
        return
    if request.config.getoption("--switches"):
        pytest.skip("they are thrown already")
    with nvidia_switches():
        yield


@pytest.fixture(autouse=True)
def inference_mode():
    """Run as ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def drawn_people(tmp_path_factory):
    """Return the drawn people of small training runs, and their models."""
    from pulid_pack.micro_world import drawn
    from standins.small_runs import settings

    return drawn.make(settings(tmp_path_factory.mktemp("nowhere")))


@pytest.fixture(scope="session")
def host():
    """Return the folder and interpreter of the ComfyUI under test."""
    return HOST
