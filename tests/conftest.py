"""What is run, in which order and in which process; real_host.py is what all tests stand on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

import hosting  # noqa: E402  the folder has to be there first


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the long forms of tests as well")
    parser.addoption(
        "--switches", action="store_true", help="run as where ComfyUI finds an NVIDIA card"
    )
    parser.addoption("--gpu", action="store_true", help="run the tests that need CUDA alone")


SERVED = (
    "tests/server/",
    "tests/farm/test_farm.py",
    "tests/nodes/test_help.py",
    "tests/nodes/test_window_steps.py",
    *(f"tests/nodes/old_packs/test_{one}.py" for one in ("fuzz", "sdxl", "upgrade")),
)
APART = ("tests/server/test_flags", "tests/server/test_sweep")  # they wait for servers of their own
# their server, the workshop, has both families' models
WORKSHOP = ("server/test_workflows", "old_packs/test_sdxl", "test_every_setting_for_sdxl")


class ByFile(LoadScopeScheduling):
    """Keep each file in one process; what shares a server shares one, and the page's its tabs."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        if path.startswith(SERVED) and not path.startswith(APART):
            return "workshop" if any(one in nodeid for one in WORKSHOP) else "server"
        return "page" if path.startswith("tests/page/") else path


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)  # pytest's own order opens each page several times
def pytest_collection_modifyitems(config, items):
    """Leave out what was not asked for: long forms, the GPU's tests, with --switches servers'.

    The files that take longest come first, so that all processes end at about the same time. Of
    the browser's tests, those of one page follow each other.
    """
    left_out = [] if config.getoption("--long") else ["slow"]
    left_out += ["server", "browser", "own_switches"] if config.getoption("--switches") else []
    gpu = config.getoption("--gpu")

    def wanted(item) -> bool:
        if any(item.get_closest_marker(mark) for mark in left_out):
            return False
        return bool(item.get_closest_marker("gpu")) == gpu

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())

    def place(item) -> tuple[bool, bool, str]:
        own = marks[item.path]
        page = item.callspec.params.get("opened", "") if hasattr(item, "callspec") else ""
        return "browser" not in own, "server" not in own, page

    items[:] = sorted(filter(wanted, items), key=place)


def pytest_configure(config):
    """Set ComfyUI up and, where tests run, import it and the pack: xdist's leader runs none."""
    leads = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if leads:
        hosting.prepare()  # once, before several workers ask for it
    else:
        config.pluginmanager.import_plugin("real_host")
