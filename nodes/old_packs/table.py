"""The nodes of older PuLID packs and what takes their place, as one table."""

from __future__ import annotations

from .flux_rows import FLUX
from .sdxl_rows import SDXL

TABLE = (*FLUX, *SDXL)
OLD = {old.id: old for old in TABLE}
