"""The bench stays alive: each row in its smallest form, and the page it writes.

Times depend on what else the machine does, so no test asks for one; what identity costs is in
test_virtual_card.py.
"""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from places import ROOT

from bench import report, speed
from bench.report import Check, Column, Row, Settings

BENCH = ROOT / "scripts" / "bench.py"


def test_both_forms_add_the_same():
    (exact, rounded) = (r for r in speed.layer(Settings(True)).records if "cpu" in r["case"])
    assert exact["case"] == "cpu float32, 1024 tokens, 32 ID tokens"
    assert exact["difference"] < 1e-5
    assert rounded["case"] == "cpu bfloat16, 1024 tokens, 32 ID tokens"
    assert rounded["difference"] < 3e-2
    assert all(exact[key]["median"] > 0 for key in ("authors", "ours", "faster"))


def test_a_row_reads_as_a_table_and_says_what_is_missed():
    columns = [Column("case", "case"), Column("taken", "taken, ms", "{:.1f}", 1e3)]
    taken = {"median": 0.002, "low": 0.001, "high": 0.0035}
    row = Row("A row", "A note.", columns, [{"case": "x", "taken": taken}])
    assert report.row_text(3, row).splitlines() == [
        "### 3. A row",
        "",
        "A note.",
        "",
        "| case |        taken, ms |",
        "| ---- | ---------------: |",
        "| x    | 2.0 (1.0 to 3.5) |",
    ]
    text = report.checks_text([Check("a", 1.0, "at most", 2), Check("b", 1.0, "at least", 2)])
    assert [line.split("|")[4].strip() for line in text.splitlines()[2:]] == ["yes", "NO"]


def test_the_plot_draws_both_sides_to_scale():
    records = [{"case": "FLUX.1-dev", "bytes": 2e9, "authors_bytes": 8e9}]
    svg = report.draw(records)
    widths = [float(part.split('"')[0]) for part in svg.split('width="')[2:]]
    assert math.isclose(widths[0], 4 * widths[1], abs_tol=0.2)
    assert ">8.0<" in svg and ">2.0<" in svg


@pytest.mark.parametrize("rows", ["6", "0", "x", "1,,2", ""])
def test_unknown_rows_are_refused(rows):
    command = [sys.executable, str(BENCH), "--rows", rows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "rows go from 1 to 5" in done.stderr
