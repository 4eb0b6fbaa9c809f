"""An identity: the ID tokens of a person."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Families of ID encoders, as files and messages name them. Equal shapes are not equal meaning.
FLUX, SDXL_V1, SDXL_V1_1 = "flux", "sdxl-v1", "sdxl-v1.1"
FAMILIES = {FLUX: "PuLID-FLUX", SDXL_V1: "PuLID-SDXL v1", SDXL_V1_1: "PuLID-SDXL v1.1"}


@dataclass(frozen=True, eq=False)
class FaceVectors:
    """The face vectors of the photos that an identity was made from, for measuring likeness.

    ``recogniser`` is the file that made them and ``pack`` the folder it lies in: vectors of two
    recognisers cannot be compared.
    """

    vectors: Tensor  # [M, 512], one for each photo, as the recogniser gave them, float32
    recogniser: str
    pack: str


@dataclass(frozen=True)
class Identity:
    """ID tokens of one person, float32 on the CPU.

    ``uncond_id_tokens`` is what the same encoder makes of nothing (zeros pushed through it); the
    authors use it on the unconditional rows under true CFG. ``family`` is the encoder's.
    ``faces`` takes no part in making pictures; it is None where nothing is known of the photos.
    """

    id_tokens: Tensor  # [1, T, C]
    uncond_id_tokens: Tensor  # [1, T', C]
    family: str = FLUX
    faces: FaceVectors | None = None

    @property
    def is_nobody(self) -> bool:
        """True if it has no tokens: no photo had a face, and the model is to stay as it is."""
        return self.id_tokens.shape[1] == 0


def check_fits(identity: Identity, family: str, width: int, name: str) -> None:
    """Raise ValueError if the PuLID model ``name`` cannot show this identity.

    ``family`` is the model's, and ``width`` that of the ID tokens that it takes.
    """
    if identity.family != family:
        raise ValueError(
            f"This identity was made by {FAMILIES[identity.family]}, but {name} is "
            f"{FAMILIES[family]}: they mean different things by their ID tokens. Encode the photo "
            "again with this PuLID model, or choose an identity that was made with one of its kind."
        )
    found = identity.id_tokens.shape[-1]
    if found != width:
        raise ValueError(
            f"This identity has ID tokens of {found} values, but {name} takes {width}. It was made "
            "with another PuLID model: encode the photo again with this one."
        )
