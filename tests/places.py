"""Where things lie: the pack's root, and the data and helpers of the tests."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
WORKFLOWS = ROOT / "workflows"
