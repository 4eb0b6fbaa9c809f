"""Train the drawn world from nothing: python -m micro_world.train

Its networks, then the adapter. Goes on where it was interrupted. The files are written where the
ablation looks for them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the pack is there once the host is
    from pulid_pack.micro_world.pool import Pool
    from pulid_pack.micro_world.world import Networks

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import hosting  # noqa: E402
from train import load_host, say  # noqa: E402

SEED = 3  # of the files that ship
JUDGED = 256  # held-out people of the manifest's figures


def main(arguments: list[str]) -> int:
    """Train what is asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "micro_world")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--only", nargs="*", help="networks to train; no files are written")
    parser.add_argument("--output", type=Path, help="of the files (default: micro_world/trained)")
    options = parser.parse_args(arguments)
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), arguments, hosting.KEPT)
    load_host(host)
    import torch
    from pulid_pack.micro_world.files import TRAINED
    from pulid_pack.micro_world.pool import Pool
    from pulid_pack.micro_world.school import NETWORKS

    torch.set_num_threads(options.threads)
    folder = options.folder / f"seed {options.seed}"  # another seed has other pictures
    folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(folder, options.seed, say)
    networks = {name: NETWORKS[name](pool) for name in options.only or NETWORKS}
    if networks.keys() == NETWORKS.keys():
        write(pool, networks, options.output or TRAINED)
    return 0


def write(pool: Pool, networks: Networks, output: Path) -> None:
    """Write the networks, train their adapter, write it too, and say in the manifest how good."""
    from comfy.model_management import get_torch_device
    from pulid_pack.micro_world import files, recipes
    from pulid_pack.micro_world.apprentice import Apprentice
    from pulid_pack.micro_world.held_out import HeldOut
    from pulid_pack.micro_world.school import LESSONS
    from pulid_pack.training import adapter_files

    written = files.write_networks({**networks, files.EXACT: pool.codec.state_dict()}, output)
    world = files.read_world(output, get_torch_device())
    trained = Apprentice(world, pool.folder / "adapters", pool.seed, say).train(recipes.SHIPPED)
    adapter = files.write_adapter(trained, output)
    say(f"judging {JUDGED} held-out people")
    about = {
        "seed": pool.seed,
        "steps": {lesson.name: lesson.steps for lesson in LESSONS},
        "adapter": recipes.SHIPPED,
        "figures": HeldOut(world, JUDGED).summary(adapter_files.load(adapter)),
    }
    files.write_manifest(output, [*written, adapter], about)
    say(f"{output} has the files; {about['figures']}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
