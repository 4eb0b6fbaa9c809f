"""ComfyUI's library, the pack and the stand-in models inside this process, and this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path

import hosting


def use_stand_ins() -> None:
    """Let the stand-in models of the tests be imported."""
    tests = str(hosting.ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)


def use_host(path: Path) -> None:
    """Put ComfyUI's own modules first on the path and tell it which devices there are."""
    sys.path.insert(0, str(path))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import utils.install_util  # noqa: F401  before the host puts comfy/ itself on the path


def load_pack(name: str = "pulid_pack") -> None:
    """Import the pack as ComfyUI does, under ``name``."""
    root = hosting.ROOT
    where = [str(root)]
    spec = importlib.util.spec_from_file_location(
        name, root / "__init__.py", submodule_search_locations=where
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def host_version(host: Path) -> str:
    """Return ComfyUI's version."""
    text = (host / "comfyui_version.py").read_text(encoding="utf-8")
    return text.split('"')[1]


def machine(host: Path) -> dict[str, str]:
    """Return what a figure depends on."""
    import psutil  # one of ComfyUI's own packages
    import torch

    memory = psutil.virtual_memory().total / 2**30
    facts = {
        "processor": f"{processor()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}",
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(terse=True),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"ComfyUI {host_version(host)}, onnxruntime {importlib.metadata.version('onnxruntime')}",
    }
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        facts["GPU"] = f"{torch.cuda.get_device_name(0)}, {total:.0f} GiB"
    if hasattr(os, "getloadavg"):
        facts["load at the start"] = f"{os.getloadavg()[0]:.1f} (what else was running)"
    return facts


def processor() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
