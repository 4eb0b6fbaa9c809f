"""The bench stays alive: the quick run measures every row and keeps the figures that hold anywhere.

Times depend on what else the machine does, so no test asks for one.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "scripts" / "bench.py"
ROWS = 7


@pytest.fixture(scope="module")
def quick(tmp_path_factory, host):
    """Return a quick run: its figures, and what it wrote on the terminal."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    command = [str(host.python), str(BENCH), "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(file.read_text(encoding="utf-8")), done.stdout


@pytest.mark.server
class TestQuickRun:
    def test_every_row_is_measured(self, quick):
        result, shown = quick
        assert sorted(result["rows"], key=int) == [str(n) for n in range(1, ROWS + 1)]
        for number, row in result["rows"].items():
            assert row["records"], number
            assert f"### {number}. {row['title']}" in shown

    def test_every_number_is_a_number(self, quick):
        result, _ = quick
        found = list(numbers(result["rows"]))
        assert len(found) > 200
        assert all(math.isfinite(value) for value in found)

    def test_the_machine_is_told(self, quick):
        result, shown = quick
        assert {"processor", "memory", "system", "software"} <= result["machine"].keys()
        assert f"- processor: {result['machine']['processor']}" in shown

    def test_both_sides_compute_the_same(self, quick):
        for record in quick[0]["rows"]["1"]["records"]:
            limit = 1e-5 if record["dtype"] == "float32" else 3e-2
            assert record["difference"] < limit, record["case"]

    def test_one_identity_takes_a_quarter_of_the_operations(self, quick):
        for record in quick[0]["rows"]["1"]["records"]:
            if record["id_tokens"] == 32:
                assert record["operations_ratio"] == pytest.approx(0.25, abs=0.02)
            assert record["operations_ratio"] < 1
            assert record["bytes_ratio"] < 1

    def test_one_identity_takes_at_most_016_of_the_layers_memory(self, quick):
        (one,) = (
            r
            for r in quick[0]["rows"]["5"]["records"][1:]
            if r["people"] == 1 and r["unconditional"] == "none"
        )
        assert one["layers_share"] == pytest.approx(0.15, abs=0.005)
        assert "| resident identity memory / the layers'" in quick[1]

    def test_a_photo_is_encoded_only_when_it_is_new(self, quick):
        encodes = {r["what"]: r["encodes"] for r in quick[0]["rows"]["3"]["records"]}
        assert encodes == {
            "first run": 1,
            "the same again": 0,
            "new seed": 0,
            "new weight": 0,
            "new photo": 1,
        }

    def test_no_face_package_comes_with_the_pack(self, quick):
        imported = quick[0]["rows"]["6"]["records"][0]["packages"]
        assert imported.endswith(": none")


def numbers(value):
    """Yield every number in nested lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("rows", ["8", "0", "x", "1,,2", ""])
def test_unknown_rows_are_refused(rows):
    command = [sys.executable, str(BENCH), "--rows", rows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "rows go from 1 to 7" in done.stderr
