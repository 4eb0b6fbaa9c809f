"""``python -m pulid_farm jobs.jsonl --servers http://a:8188 http://b:8188``."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
