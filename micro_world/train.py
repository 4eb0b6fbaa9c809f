"""Train everything of the drawn world from nothing: python -m micro_world.train

Goes on where it was interrupted. Takes under two hours on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import hosting  # noqa: E402
from train import load_host  # noqa: E402


def main(arguments: list[str]) -> int:
    """Train what is asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "micro_world")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--only", nargs="*", help="networks to train")
    options = parser.parse_args(arguments)
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), arguments)
    load_host(host)
    import torch
    from pulid_pack.micro_world.pool import Pool
    from pulid_pack.micro_world.school import NETWORKS

    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(options.folder, options.seed, say)
    for name in options.only or NETWORKS:
        NETWORKS[name](pool)
    return 0


def say(text: str) -> None:
    """Print a line of progress at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
