"""Make thousands of pictures on any number of ComfyUI servers, each job exactly once.

    python scripts/farm.py jobs.jsonl --servers http://a:8188 http://b:8188
    python scripts/farm.py jobs.jsonl --local 8 --models /path/to/models    a server for each GPU

Needs ``pip install -r requirements-farm.txt``. docs/farm.md says what a job is, how servers join
and leave, and what happens when something dies. --local sets a ComfyUI up if COMFYUI_PATH names
none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hosting

NEEDED = "python -m pip install -r requirements-farm.txt"


@contextmanager
def local_servers(number: int, models: Path | None) -> Iterator[list[str]]:
    """Start servers, on each GPU in turn, and end them with the block; give their addresses."""
    import torch
    from serving import Server

    host, gpus = hosting.prepare(), torch.cuda.device_count()
    with ExitStack() as stack:
        urls = []
        for index in range(number):
            own = {"CUDA_VISIBLE_DEVICES": str(index % gpus)} if gpus else {}
            urls.append(stack.enter_context(Server(host, models, environment=own)).url)
            print(f"[farm] server {index + 1} of {number} answers at {urls[-1]}", file=sys.stderr)
        yield urls


if __name__ == "__main__":
    if any(
        argument.startswith("--local") for argument in sys.argv
    ):  # ComfyUI's environment starts the servers
        hosting.run_inside(hosting.prepare(), Path(__file__).resolve(), sys.argv[1:])
    try:
        from pulid_farm.cli import main
    except ImportError as error:
        sys.exit(f"{error}. What the farm needs:\n    {NEEDED}")
    sys.exit(main(sys.argv[1:], local_servers))
