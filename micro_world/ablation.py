"""The paper's ablation on drawn people: python -m micro_world.ablation

Every set of losses on the same held-out people, prompts and noise, three seeds of training, with a
sweep of the weight beside it: an adapter that disturbs less must do so at the same likeness.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import hosting  # noqa: E402
from train import load_host, say  # noqa: E402

OUTPUT = ROOT / "output" / "ablation"


def main(arguments: list[str]) -> int:
    """Train and judge what is missing, write table and pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=OUTPUT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--people", type=int, default=512, help="held-out people")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--world", type=Path, help="a folder of networks (default: the shipped)")
    options = parser.parse_args(arguments)
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), arguments, hosting.KEPT)
    load_host(host)
    import torch
    from comfy.model_management import get_torch_device
    from pulid_pack.micro_world.comparing import compare, grid, table
    from pulid_pack.micro_world.files import ADAPTER, TRAINED, read_world

    torch.set_num_threads(options.threads)
    files = options.world or TRAINED
    world = read_world(files, get_torch_device())
    options.folder.mkdir(parents=True, exist_ok=True)
    found = compare(world, options.folder, options.seeds, options.people, say)
    (options.folder / "table.md").write_text(table(found), encoding="utf-8")
    (options.folder / "figures.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    shipped = files / ADAPTER if (files / ADAPTER).is_file() else None
    sheet = grid(world, options.folder, options.seeds[0], say, shipped)
    sheet.save(options.folder / "grid.png")
    say(f"{options.folder} has table.md, grid.png and figures.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
