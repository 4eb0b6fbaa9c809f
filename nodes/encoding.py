"""Photos become an identity, and what a node shows of it; the last few are not encoded again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..encoders.eva_clip import EvaClip
from ..encoders.faces import FaceAnalysis, NoFace, PhotoRecord, agreement, face_features
from ..encoders.photo import annotate
from ..identity.fusion import FusionOptions, make_identity
from ..identity.id_encoder import IDEncoder, nobody
from ..identity.identity import FaceVectors, Identity
from .feedback import Note, Progress

# ArcFace: photos of one person mostly lie above 0.4, of different people below 0.2
SAME_PERSON = 0.3
NO_PRIOR = (
    "No face was found in prior_image. Use a sharp photo with the face upright and mostly visible, "
    "or set on_no_face to skip, which leaves it out."
)


@dataclass(frozen=True)
class Encoders:
    """The loaded models that look at photos."""

    id_encoder: IDEncoder
    eva: EvaClip
    faces: FaceAnalysis


@dataclass(frozen=True)
class Question:
    """What is asked of the photos: which face of each, seen how, and how they are joined."""

    face: str
    face_index: int
    on_no_face: str
    grayscale: bool
    fusion: FusionOptions
    face_points: str = ""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What B photos gave; small enough to be kept.

    crops [M, 512, 512, 3] uint8, as EVA-CLIP saw the M photos that were not skipped; photos: B
    records; arcface [M, 512].
    """

    identity: Identity
    crops: Tensor
    photos: tuple[PhotoRecord, ...]
    arcface: Tensor

    @property
    def size(self) -> int:
        """Its size in bytes; the unconditional tokens are shared by all."""
        return sum(t.nbytes for t in (self.identity.id_tokens, self.crops, self.arcface))

    @property
    def faces(self) -> Tensor:
        """The crops as a ComfyUI image, [M, 512, 512, 3] in 0..1; a white one if there are none."""
        return self.crops.float() / 255 if len(self.crops) else torch.ones(1, *self.crops.shape[1:])


def encode_photos(
    encoders: Encoders, image: Tensor, prior: Tensor | None, question: Question
) -> Encoded:
    """Encode the photos [B, H, W, C] of one person, or return what they gave a short while ago.

    ``prior`` is a photo that the fusion modes other than joint put before the others. Raises
    ValueError naming the photo at fault.
    """
    key = (digest(image), None if prior is None else digest(prior), question)
    makers = (encoders.eva, encoders.faces)
    recent = encoders.id_encoder.recent
    known = recent.get(key, makers)
    if known is None:
        known = encode_anew(encoders, image, prior, question)
        recent.put(key, makers, known, known.size)
    return known


def digest(image: Tensor) -> bytes:
    """Return a hash of an image's shape, dtype and pixels."""
    raw = image.detach().cpu().contiguous()
    head = f"{list(raw.shape)} {raw.dtype}".encode()
    found = hashlib.blake2b(head, digest_size=20)
    if raw.numel():
        found.update(raw.view(torch.uint8).numpy())
    return found.digest()


def encode_anew(
    encoders: Encoders, image: Tensor, prior: Tensor | None, question: Question
) -> Encoded:
    """Find the faces, look at them and encode them."""
    faces, eva = encoders.faces, encoders.eva
    which = (question.face, question.face_index, question.on_no_face, question.grayscale)
    features = face_features(faces, eva, image, *which, Progress(), question.face_points)
    if not len(features.crops):
        crops = features.crops.to(torch.uint8)
        return Encoded(nobody(encoders.id_encoder), crops, features.photos, features.arcface)
    id_cond, hidden = features.id_cond, features.hidden
    if prior is not None and question.fusion.mode != "joint":  # the authors' way knows none
        try:
            first = face_features(faces, eva, prior, *which)
        except NoFace as error:  # its number is not that of a photo in the batch
            raise ValueError(NO_PRIOR) from error
        if len(first.crops):  # as in "Enhanced", a prior without a face is left out
            id_cond = torch.cat((first.id_cond, id_cond))
            hidden = tuple(torch.cat(pair) for pair in zip(first.hidden, hidden, strict=True))
    identity = make_identity(encoders.id_encoder, id_cond, hidden, question.fusion, Progress())
    # the prior's vector too: it is one of the photos that make the person
    vectors = id_cond[:, : features.arcface.shape[1]].clone()
    known = FaceVectors(vectors, faces.recogniser, faces.pack.name)
    identity = replace(identity, faces=known)
    crops = (features.crops.clamp(0, 1) * 255).round().to(torch.uint8)
    return Encoded(identity, crops, features.photos, features.arcface)


def notes_on(encoded: Encoded) -> list[Note]:
    """Say which photos were left out and which look like a different person."""
    notes = []
    skipped = [p.index for p in encoded.photos if p.skipped]
    if encoded.identity.is_nobody:
        where = ", ".join(map(str, skipped))
        text = f"No face in image {where}: the model is used as it is, without identity."
        return [Note(text, warning=True)]
    if skipped:
        notes.append(Note(f"No face in image {', '.join(map(str, skipped))}: left out.", True))
    used = [p.index for p in encoded.photos if not p.skipped]
    if len(used) < 2:
        return notes
    cosine = agreement(encoded.arcface)
    others = ((cosine.sum(1) - 1) / (len(used) - 1)).tolist()
    each = ", ".join(f"image {i} {v:.2f}" for i, v in zip(used, others, strict=True))
    notes.append(Note(f"How much the faces agree with the others: {each}."))
    notes += [
        Note(
            f"Image {index} looks like a different person: its similarity to the other photos is "
            f"{value:.2f}, expected {SAME_PERSON} or more.",
            True,
        )
        for index, value in zip(used, others, strict=True)
        if value < SAME_PERSON
    ]
    return notes


def annotated(photos: list[np.ndarray], encoded: Encoded) -> Tensor:
    """Return B photos [H, W, 3] uint8 with every face numbered, as a ComfyUI image [B, H, W, 3]."""
    pairs = zip(photos, encoded.photos, strict=True)
    return torch.stack([annotate(photo, record.faces, record.chosen) for photo, record in pairs])


def plain(photos: list[np.ndarray]) -> Tensor:
    """Return B photos [H, W, 3] uint8 as a ComfyUI image [B, H, W, 3]; the page draws its boxes."""
    return torch.stack([torch.from_numpy(photo).float() / 255 for photo in photos])
