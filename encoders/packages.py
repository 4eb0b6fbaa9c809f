"""Third-party packages, imported where they are used so that a missing one stops only its node."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

PIP_NAMES = {
    "cv2": "opencv-python",
    "facexlib": "facexlib",
    "insightface": "insightface",
    "onnxruntime": "onnxruntime",
    "open_clip": "open_clip_torch",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "timm": "timm",
}


def require(module: str, purpose: str) -> ModuleType:
    """Import ``module`` (dots allowed) for ``purpose``, such as "Load EVA-CLIP".

    Raises RuntimeError with the install line when the package, or one that it imports, is absent.
    """
    try:
        if module not in sys.modules:  # the environment is touched once, not with every photo
            with no_update_check():
                importlib.import_module(module)
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        names = sorted({PIP_NAMES.get(name, name) for name in (package, *absent(error))})
        raise RuntimeError(
            f"{purpose} needs the Python package {package}, which cannot be imported here: "
            f"{error}\nInstall it with the Python that runs ComfyUI, then restart ComfyUI:\n"
            f"    python -m pip install {' '.join(names)}\n"
            f"(in the portable build for Windows: python_embeded\\python.exe instead of python)"
        ) from error


@contextlib.contextmanager
def no_update_check() -> Iterator[None]:
    """Keep an import off the network: insightface 0.7 imports albumentations, which asks PyPI."""
    name = "NO_ALBUMENTATIONS_UPDATE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def absent(error: BaseException | None) -> list[str]:
    """Return the top-level names of the modules that ``error`` and what led to it did not find."""
    names = []
    while error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            names.append(error.name.split(".")[0])
        error = error.__cause__ or error.__context__  # insightface 0.7 raises without "from"
    return names
