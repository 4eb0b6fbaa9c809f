"""Packages that only training needs, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

FILE = "requirements-train.txt"


def require(module: str, purpose: str) -> ModuleType:
    """Import ``module`` for ``purpose``; RuntimeError with the install line if it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(
            f"{purpose} needs the Python package {module.split('.')[0]}, which cannot be imported "
            f"here: {error}\nInstall what training needs with the Python that runs ComfyUI:\n"
            f"    python -m pip install -r {FILE}"
        ) from error
