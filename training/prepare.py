"""Every picture of the training set is looked at once: face, crop, face vector, latent and text.

What is thrown out is named with its reason, once; what is done is never done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..encoders.faces import FaceAnalysis, detect_faces, order_faces, prepare_photo
from ..encoders.faces import look_at as look_at_face
from .cache import Cache, Outcome, as_bytes, digest
from .config import Data
from .pictures import ThrownOut, png, read_picture, square
from .records import Record, Refused
from .thrown_out import thumbnail, write_list

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


class Makers(Protocol):
    """What makes a training sample of a picture: face models, ComfyUI's VAE and text encoders."""

    @property
    def faces(self) -> FaceAnalysis:
        """The face models."""

    def encode_picture(self, picture: Tensor) -> Tensor:
        """[1, S, S, 3] in 0..1 -> latent [1, C, h, w]."""

    def encode_text(self, caption: str) -> dict[str, Tensor]:
        """Return text [L, C] and pooled [P], or text alone."""


@dataclass(frozen=True)
class Report:
    """What a pass over the set found: pictures kept and thrown out, and the work that was done."""

    kept: int
    thrown_out: int
    looked_at: int  # pictures, in this pass
    texts: int  # encoded in this pass


def prepare(
    entries: tuple[Sequence[Record], Sequence[Refused]],
    cache: Cache,
    makers: Makers,
    data: Data,
    progress: Progress | None = None,
) -> Report:
    """Bring an open cache up to date with the set's entries.

    Raises RuntimeError if the cache cannot be written; what is done by then is kept.
    """
    records, refused = entries
    looked_at, before = 0, len(cache.outcomes)
    for one in refused:
        if cache.outcomes.get(one.name, Outcome("", "")).reason != one.reason:
            throw_out(cache, Outcome(one.name, "", reason=one.reason))
    names = {one.name for one in (*records, *refused)}
    twins = {o.key: o.name for o in cache.outcomes.values() if o.kept and o.name in names}
    for number, record in enumerate(records, 1):
        looked_at += bring_up_to_date(record, cache, makers, data, twins)
        if progress:
            progress(number, len(records), "pictures")
    if looked_at:
        makers.faces.sessions.rest()
    kept = [one for one in cache.kept() if one.name in names]
    captions = sorted({one.caption for one in kept})
    texts = encode_texts(captions, cache, makers.encode_text, progress)
    thrown = [cache.outcomes[n] for n in sorted(names) if not cache.outcomes[n].kept]
    if looked_at or len(cache.outcomes) != before:
        write_list(cache, thrown)
    return Report(len(kept), len(thrown), looked_at, texts)


def bring_up_to_date(
    record: Record, cache: Cache, makers: Makers, data: Data, twins: dict[str, str]
) -> bool:
    """Look at one picture unless that was done before; return whether it was looked at."""
    caption, person = record.caption or data.caption, record.person or record.name
    known = cache.outcomes.get(record.name)
    try:
        stamp = record.stamp()
    except OSError as error:
        stamp = f"unreadable: {error.strerror}"
    if known and known.stamp == stamp:
        if known.kept and caption and cache.has("pictures", known.key):
            if (known.caption, known.person) != (caption, person):  # only the text is new
                cache.note(Outcome(record.name, stamp, known.key, "", caption, person))
            return False
        if not known.kept and known.caption == caption:
            return False
    key = ""
    try:
        if not caption:
            raise ThrownOut("no caption: expected a .txt beside it, or a caption in the list")
        try:
            content = record.read()
        except OSError as error:
            raise ThrownOut(f"it cannot be read ({error.strerror})") from error
        key = digest(content)
        if twins.setdefault(key, record.name) != record.name:
            raise ThrownOut(f"the same picture as {twins[key]}")
        if not cache.has("pictures", key):
            cache.put("pictures", key, look_at(content, key, cache, makers, data))
        cache.note(Outcome(record.name, stamp, key, "", caption, person))
    except ThrownOut as reason:
        if twins.get(key) == record.name:
            del twins[key]
        throw_out(cache, Outcome(record.name, stamp, key, str(reason), caption, person))
    return True


def throw_out(cache: Cache, outcome: Outcome) -> None:
    """Note that a picture is not used, and say so."""
    cache.note(outcome)
    log.warning("%s is left out: %s.", outcome.name, outcome.reason)


def look_at(
    content: bytes, key: str, cache: Cache, makers: Makers, data: Data
) -> dict[str, Tensor]:
    """Return what training needs of a picture, or raise ThrownOut.

    latent [C, h, w] float16; crop: the whitened face in colour as PNG bytes; vector [512] of the
    recogniser; box [4] and keypoints [5, 2] of the face in the training picture's pixels.
    """
    picture = read_picture(content)
    if min(picture.size) < data.min_side:
        size = " x ".join(map(str, picture.size))
        raise ThrownOut(f"it is {size} pixels, at least {data.min_side} are wanted")
    pixels = np.array(picture)
    photo = prepare_photo(torch.from_numpy(pixels).float() / 255)
    try:
        face = the_face(detect_faces(makers.faces, photo), data.several_faces)
        scale = picture.width / photo.shape[1]
        corner, side = square(picture.size, face.centre * scale)
        zoom = data.size / side
        short = float(min(face.box[2:] - face.box[:2])) * scale * zoom
        if short < data.min_face:
            raise ThrownOut(
                f"its face is {short:.0f} pixels small in the training picture, at least "
                f"{data.min_face} are wanted"
            )
        _, crop, vector = look_at_face(makers.faces, photo, face, grayscale=False)
    except (ThrownOut, ValueError) as error:
        cache.write(cache.path("thumbs", key), thumbnail(picture))
        raise ThrownOut(str(error).rstrip(".")) from error
    window = (*corner, corner[0] + side, corner[1] + side)
    small = picture.resize((data.size, data.size), Image.Resampling.LANCZOS, box=window)
    latent = makers.encode_picture(torch.from_numpy(np.array(small)).float()[None] / 255)
    origin = torch.tensor(corner, dtype=torch.float32)

    def in_picture(points: np.ndarray) -> Tensor:
        return ((torch.from_numpy(points).float().view(-1, 2) * scale - origin) * zoom).contiguous()

    return {
        "latent": latent[0].to(torch.float16).cpu(),
        "crop": as_bytes(png(crop)),
        "vector": vector,
        "box": in_picture(face.box).flatten(),
        "keypoints": in_picture(face.keypoints),
    }


def the_face(faces: list, several: str):
    """Return the face to train on, or raise ThrownOut."""
    if not faces:
        raise ThrownOut("no face was found in it")
    if len(faces) > 1 and several == "skip":
        raise ThrownOut(f"it has {len(faces)} faces, and one person is wanted")
    return order_faces(faces, "largest")[0]


def encode_texts(
    captions: Sequence[str],
    cache: Cache,
    encode: Callable[[str], dict[str, Tensor]],
    progress: Progress | None = None,
) -> int:
    """Encode the captions that the cache does not have yet; return their number."""
    new = [caption for caption in captions if not cache.has("texts", cache.text_key(caption))]
    for number, caption in enumerate(new, 1):
        tensors = {k: v.to(torch.float16).cpu() for k, v in encode(caption).items()}
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"The text encoder made values of '{caption[:60]}' that are not numbers "
                    f"({name}). Use its 16-bit or fp8 file as ComfyUI recommends it."
                )
        cache.put("texts", cache.text_key(caption), tensors)
        if progress:
            progress(number, len(new), "captions")
    return len(new)


def settings_of(data: Data, files: Sequence[Path]) -> dict[str, object]:
    """Return what a cache depends on: settings, and names and sizes of the models' files."""
    named = {}
    for path in files:
        inside = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
        named[path.name] = sum(file.stat().st_size for file in inside)
    chosen = {k: getattr(data, k) for k in ("size", "min_side", "min_face", "several_faces")}
    return {"version": 1, **chosen, "models": named}
