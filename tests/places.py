"""Where things lie: the pack's root, and the data and helpers of the tests."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
WORKFLOWS = ROOT / "workflows"
# the folders with Python in them; the pack that users get is without its tools
FOLDERS = sorted(p for p in ROOT.iterdir() if p.name[0] != "." and any(p.glob("*.py")))
TOOLS = ("bench", "scripts", "tests")
# what services install; no part of the pack
CLIENT = sorted((ROOT / "client").glob("pulid_*/*.py"))
PACK = sorted(
    [*ROOT.glob("*.py"), *(p for f in FOLDERS if f.name not in TOOLS for p in f.rglob("*.py"))]
)
