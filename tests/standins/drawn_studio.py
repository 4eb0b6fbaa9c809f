"""The trained drawn world in the pack's own nodes: photos in, pictures and likeness out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.encoders.eva_clip import EvaClip, load_eva_clip
from pulid_pack.encoders.faces import FaceAnalysis, load_face_analysis
from pulid_pack.identity.identity import Identity
from pulid_pack.micro_world.files import ADAPTER, TRAINED, read_world
from pulid_pack.micro_world.flux import POOLED
from pulid_pack.micro_world.people import People, draw_people, on_another_day
from pulid_pack.micro_world.pool import as_sampled
from pulid_pack.micro_world.prompts import tokens_of
from pulid_pack.micro_world.renderer import photo
from pulid_pack.micro_world.world import World
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.nodes.encode import PuLIDFluxEncodeIdentity
from pulid_pack.pulid_flux.checkpoint import PulidModel, load_pulid
from pulid_pack.training.recogniser import warp
from torch import Tensor
from torch.nn.functional import cosine_similarity

from standins.drawn import write_drawn_models
from standins.models import EVA_CLIP, FACE_PACK, PARSING, PULID

PEOPLE, SEED = 12, 4242  # nobody was trained on these
PHOTO = 128  # pixels of a photo's side
STEPS = 4


@dataclass(frozen=True)
class Studio:
    """The models as the pack's loaders read them, and the world that they are of."""

    models: Path
    world: World
    flux: ModelPatcher
    pulid: PulidModel
    eva: EvaClip
    faces: FaceAnalysis

    def identity(self, photos: Tensor, **more: object) -> Identity:
        """Return what *Encode PuLID Identity* makes of photos [N, H, W, 3] of one person."""
        given = (self.pulid, self.eva, self.faces, photos)
        return PuLIDFluxEncodeIdentity.execute(*given, **more)[0]

    def apply(
        self,
        identity: Identity,
        weight: float = 1.0,
        start_at: float = 0.0,
        end_at: float = 1.0,
        model: ModelPatcher | None = None,
        **more: object,
    ) -> ModelPatcher:
        """Return the model of *Apply PuLID-Flux Identity*."""
        given = (model or self.flux, self.pulid, identity, weight, start_at, end_at)
        return PuLIDFluxApplyIdentity.execute(*given, **more)[0]

    def paint(
        self,
        model: ModelPatcher,
        prompt: str,
        seed: int,
        *,
        steps: int = STEPS,
        cfg: float = 1.0,
        wide: int = 1,
        **cond: object,
    ) -> Tensor:
        """Return the picture [1, 3, 64, 64 wide] that ComfyUI's sampler makes of a prompt."""
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, 16, 16, 16 * wide, generator=draw)
        positive, negative = (
            [[tokens_of(text)[None], {"pooled_output": torch.zeros(1, POOLED), **cond}]]
            for text in (prompt, "")
        )
        how = (steps, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise))
        latent = comfy.sample.sample(model, noise, *how, disable_pbar=True, seed=seed)
        return self.world.codec.decode(as_sampled(latent)).clamp(0, 1)

    def vectors(self, pictures: Tensor) -> Tensor:
        """Return the judge's vectors of pictures [N, 3, H, W], where each is most like a face.

        A doubted face counts as it is: whether one is found at all is another question.
        """
        points, _ = self.world.find(pictures, sure=0.0)
        return self.world.judge(2 * warp(pictures, points) - 1)


@dataclass(frozen=True)
class Sitting:
    """People, a photo [1, H, W, 3] of each, their identities and the judge's vectors."""

    people: People
    photos: Sequence[Tensor]
    identities: Sequence[Identity]
    vectors: Tensor
    prompts: Sequence[str]  # of others

    def first(self, count: int) -> Sitting:
        """Return so many of them."""
        return Sitting(
            self.people[:count],
            self.photos[:count],
            self.identities[:count],
            self.vectors[:count],
            self.prompts[:count],
        )


def open_studio(folder: Path) -> Studio:
    """Write the shipped files below ``folder`` as ComfyUI's models, and load them."""
    models, world = write_drawn_models(folder, TRAINED / ADAPTER), read_world()
    return Studio(
        models,
        world,
        world.base(),  # float32: under dynamic VRAM the file's bfloat16 is cast on a card only
        load_pulid(models / PULID),
        load_eva_clip(models / EVA_CLIP),
        load_face_analysis(models / FACE_PACK, "auto", models / PARSING),
    )


def sit(studio: Studio, count: int = PEOPLE) -> Sitting:
    """Take the photos of so many people."""
    people = draw_people(count, SEED)
    shown = photo(on_another_day(people, SEED), PHOTO)
    photos = [one[None] for one in shown.movedim(1, -1)]
    prompts = draw_people(count, SEED + 1).prompts()
    identities = [studio.identity(one) for one in photos]
    return Sitting(people, photos, identities, studio.vectors(shown), prompts)


def painted(
    studio: Studio, sitting: Sitting, model_of: Callable[[Identity], ModelPatcher], **how: object
) -> Tensor:
    """Return everybody's picture [N, 3, 64, W], each with a prompt and noise of its own."""
    pictures = [
        studio.paint(model_of(identity), sitting.prompts[number], number, **how)
        for number, identity in enumerate(sitting.identities)
    ]
    return torch.cat(pictures)


def alike(
    studio: Studio, sitting: Sitting, model_of: Callable[[Identity], ModelPatcher], **how: object
) -> float:
    """Return the mean likeness of everybody's picture with the photo."""
    vectors = studio.vectors(painted(studio, sitting, model_of, **how))
    return float(cosine_similarity(vectors, sitting.vectors, dim=-1).mean())
