"""Train the drawn world's networks from nothing: python -m micro_world.train

Goes on where it was interrupted. When all are trained, their files are written where the ablation
and the tests look for them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import hosting  # noqa: E402
from train import load_host, say  # noqa: E402


def main(arguments: list[str]) -> int:
    """Train what is asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "micro_world")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--only", nargs="*", help="networks to train; no files are written")
    parser.add_argument("--output", type=Path, help="of the files (default: micro_world/trained)")
    options = parser.parse_args(arguments)
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), arguments)
    load_host(host)
    import torch
    from pulid_pack.micro_world.files import EXACT, TRAINED, write_networks
    from pulid_pack.micro_world.pool import Pool
    from pulid_pack.micro_world.school import LESSONS, NETWORKS

    torch.set_num_threads(options.threads)
    folder = options.folder / f"seed {options.seed}"  # another seed has other pictures
    folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(folder, options.seed, say)
    networks = {name: NETWORKS[name](pool) for name in options.only or NETWORKS}
    if networks.keys() == NETWORKS.keys():
        networks[EXACT] = pool.codec.state_dict()
        steps = {lesson.name: lesson.steps for lesson in LESSONS}
        write_networks(networks, options.output or TRAINED, {"seed": options.seed, "steps": steps})
        say(f"{options.output or TRAINED} has the networks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
