"""The face models and people that are shown to them, for tests: fixtures and photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from standins.eva import write_eva_clip
from standins.faces import write_face_pack, write_parsing, write_retinaface


@pytest.fixture(scope="session")
def face_files(tmp_path_factory) -> Path:
    """Return a folder with the stand-in pack, parser, RetinaFace and EVA-CLIP; only to be read."""
    folder = tmp_path_factory.mktemp("faces")
    write_face_pack(folder / "antelopev2")
    write_parsing(folder)
    write_retinaface(folder, finds=True)
    write_eva_clip(folder)
    return folder


@pytest.fixture(scope="module")
def analysis(face_files):
    """Return the loaded face models."""
    with torch.inference_mode():
        return load_faces(face_files)


def load_faces(files: Path, pack: str = "antelopev2", provider: str = "auto", **kwargs):
    """Load the face models of ``files``."""
    from pulid_pack.encoders.faces import load_face_analysis

    return load_face_analysis(files / pack, provider, files / "parsing_bisenet.pth", **kwargs)


def with_retinaface(files: Path):
    """Load the face models of ``files``, with RetinaFace for the landmarks."""
    return load_faces(files, landmarks=files / "detection_Resnet50_Final.pth")


def astronaut() -> np.ndarray:
    """Return NASA's portrait of Eileen Collins: [512, 512, 3], 8 bits."""
    return skimage.data.astronaut()


def group() -> np.ndarray:
    """Return insightface's sample photo of six people: [886, 1280, 3], 8 bits."""
    import insightface

    file = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    return np.array(Image.open(file).convert("RGB"))


def as_image(*photos: np.ndarray) -> torch.Tensor:
    """Return photos of one size, 8 bits, as a ComfyUI image [B, H, W, 3]."""
    return torch.from_numpy(np.stack(photos)).float() / 255


def crowd() -> np.ndarray:
    """Return fifty small copies of one face."""
    one = Image.fromarray(astronaut()[30:190, 150:310]).resize((100, 100))
    sheet = Image.new("RGB", (1000, 500), (128, 128, 128))
    for i in range(50):
        sheet.paste(one, (i % 10 * 100, i // 10 * 100))
    return np.array(sheet)


def face_at(x: float, y: float, side: float, score: float = 0.5):
    """Return a face in a square box around a place in a picture of 100 by 100."""
    from pulid_pack.encoders.detection import Face

    corners = np.array([x - side, y - side, x + side, y + side]) / 1.0
    return Face(corners, score, np.zeros((5, 2)), (100, 100))
