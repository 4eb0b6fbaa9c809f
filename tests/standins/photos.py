"""The photos that a person would choose for the shipped workflows."""

from __future__ import annotations

from PIL import Image

SIZE = (192, 128)  # of the picture to change, and of what is made in tests: width, height
SDXL_SIZE = (128, 64)  # of what SDXL makes: its stand-in has all 70 layers, and takes long


def pictures() -> dict[str, Image.Image]:
    """Return the photos that a person would choose."""
    import skimage.data

    photo = Image.fromarray(skimage.data.astronaut())
    scene = photo.resize(SIZE).convert("RGBA")
    hole = Image.new("L", SIZE, 255)
    hole.paste(0, (60, 10, 130, 80))  # what the mask editor cuts out
    scene.putalpha(hole)
    portraits = [
        photo,
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        photo.crop((40, 0, 460, 420)),
    ]
    named = zip(("portrait.png", "portrait2.png", "portrait3.png"), portraits, strict=True)
    return dict(named) | {"scene.png": scene, "pose.png": photo.resize(SIZE)}
