"""Every Python of this machine that the pack promises to run on can read all its sources.

What they compute there is the matrix's matter (``scripts/matrix.py``): it needs gigabytes for each.
"""

from __future__ import annotations

import subprocess
import sys

import matrix
import pytest
from places import CLIENT, FOLDERS, PACK

FOUND = {version: path for version in matrix.PYTHONS if (path := matrix.find_python(version))}
COMPILE = """
import sys, warnings
warnings.simplefilter("error")
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        compile(file.read(), path, "exec")
print("{}.{}".format(*sys.version_info), len(sys.argv) - 1)
"""


def test_this_python_is_among_them():
    assert "{}.{}".format(*sys.version_info) in FOUND


@pytest.mark.parametrize("version", FOUND)
def test_every_source_compiles(version):
    sources = [
        str(p) for p in {*PACK, *CLIENT, *(path for one in FOLDERS for path in one.rglob("*.py"))}
    ]
    done = subprocess.run(
        [str(FOUND[version]), "-c", COMPILE, *sources], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [version, str(len(sources))]
    assert len(sources) > 80
