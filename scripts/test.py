"""Set up what is missing and run every check: style, then the tests on a real ComfyUI.

    python scripts/test.py                 all
    python scripts/test.py -k mask -x      what is given goes to pytest
    python scripts/test.py -n 0 -s         in one process, with what the tests print
    python scripts/test.py --switches      the library's tests as on an NVIDIA card's ComfyUI
    python scripts/test.py --gpu           the tests that need a CUDA card, and no other

Exits with pytest's code; a check that cannot run here fails.
"""

from __future__ import annotations

import subprocess
import sys

import hosting


def main(arguments: list[str]) -> int:
    """Run the checks and return the first exit code that is not 0."""
    host = hosting.prepare()
    python = str(host.python)
    checks = [
        [python, "-m", "ruff", "check", "."],
        [python, "-m", "ruff", "format", "--check", "."],
        [python, "-m", "pytest", "tests", "-q", *hosting.WORKERS, *arguments],
    ]
    environment = {**hosting.ONE_THREAD, **hosting.KEPT, **hosting.sharing()}
    for command in checks:
        code = subprocess.call(command, cwd=hosting.ROOT, env=environment)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
