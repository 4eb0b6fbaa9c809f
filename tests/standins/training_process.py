"""A process that trains on drawn people, for tests that end it or run several of it.

python training_process.py SCRIPTS SETTINGS.json [resume]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import hosting  # noqa: E402
import train as script  # noqa: E402

script.load_host(hosting.prepare())
import torch  # noqa: E402
from pulid_pack.micro_world import drawn  # noqa: E402
from pulid_pack.training import distributed, loop, studio  # noqa: E402
from pulid_pack.training.config import from_tables  # noqa: E402

tables = json.loads(Path(sys.argv[2]).read_text())
config = from_tables(tables, Path(), "the process's settings")
with distributed.group(torch.device("cpu"), config.digest()) as group:
    made = drawn.make(config)
    adapter = studio.make_adapter(config, made.models, made.pictures)
    loop.train(config, made.models, made.pictures, adapter, group, "resume" in sys.argv)
