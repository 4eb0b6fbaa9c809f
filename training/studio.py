"""A run's frozen models from files, as ComfyUI loads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..encoders.eva_clip import hidden_blocks, load_eva_clip
from ..encoders.faces import FaceAnalysis, load_face_analysis
from ..encoders.pixels import LUMA, normalise
from ..encoders.sessions import open_sessions
from ..encoders.weights import device_of
from ..identity.id_former import HEAD_DIM, Sizes
from ..state_dicts import read_state_dict
from . import adapter_files, branch
from .adapter import Adapter, new
from .base import Base
from .calibration import calibrate
from .config import Config
from .dataset import Pictures
from .models import Models, Recognise, See, id_features
from .recogniser import find_points, load_recogniser

CHECKPOINT = "checkpoints/"  # a base from there brings its VAE and text encoders
WEIGHTS = {"default": None, "fp8_e4m3fn": torch.float8_e4m3fn}
EXPECTED_VAE = "the base's VAE, such as ae.safetensors (335 MB)"
EXPECTED_LORA = "a LoRA that makes the base a few-step model"
PROVIDER = "auto"  # of the face models


class FileMakers:
    """What ``prepare`` makes samples with. Each model is loaded when it is first needed."""

    def __init__(self, config: Config):
        self.config = config

    @cached_property
    def faces(self) -> FaceAnalysis:
        """The face models."""
        model, file = self.config.model, self.config.model_file
        return load_face_analysis(file(model.face_pack), PROVIDER, file(model.parsing))

    @cached_property
    def vae(self) -> comfy.sd.VAE:
        return load_vae(self.config)

    @cached_property
    def clip(self) -> comfy.sd.CLIP:
        return load_clip(self.config)

    def encode_picture(self, picture: Tensor) -> Tensor:
        """Return the latent [1, C, h, w] of a picture [1, S, S, 3] in 0..1."""
        return self.vae.encode(picture)

    def encode_text(self, caption: str) -> dict[str, Tensor]:
        """Return text [L, C] and pooled [P], where the encoders have one, for a caption."""
        tokens = self.clip.tokenize(caption)
        text, pooled = self.clip.encode_from_tokens(tokens, return_pooled=True)
        return {"text": text[0]} | ({} if pooled is None else {"pooled": pooled[0]})

    def files(self) -> list[Path]:
        """Return the files that the cache depends on; FileNotFoundError for one that is absent."""
        model = self.config.model
        names = [model.face_pack, model.parsing, *model.text_encoders]
        names += [model.vae] if model.vae else [model.base]
        found = [self.config.model_file(name) for name in names]
        for path in found:
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} does not exist. Put it there, or correct [model] in the settings."
                )
        return found


def load_vae(config: Config) -> comfy.sd.VAE:
    """Return the VAE that the settings name, or the checkpoint's."""
    if config.model.vae:
        return comfy.sd.VAE(sd=read_state_dict(config.model_file(config.model.vae), EXPECTED_VAE))
    return from_checkpoint(config, "vae", 2)


def load_clip(config: Config) -> comfy.sd.CLIP:
    """Return the text encoders that the settings name, or the checkpoint's."""
    model = config.model
    if not model.text_encoders:
        return from_checkpoint(config, "clip", 1)
    kinds = comfy.sd.CLIPType
    kind = getattr(kinds, model.clip_type.upper(), None)
    if kind is None:
        names = ", ".join(one.name.lower() for one in kinds)
        raise ValueError(f"[model] clip_type is '{model.clip_type}', expected one of {names}.")
    paths = [str(config.model_file(name)) for name in model.text_encoders]
    return comfy.sd.load_clip(ckpt_paths=paths, clip_type=kind)


def from_checkpoint(config: Config, what: str, place: int) -> object:
    """Return a part (model, clip or vae) of a base that is a whole checkpoint."""
    if not config.model.base.startswith(CHECKPOINT):
        raise ValueError(
            f"[model] names no {'VAE' if what == 'vae' else 'text encoder'}, and its base is no "
            f"checkpoint below {CHECKPOINT} that would bring one. Name it."
        )
    wanted = {f"output_{one}": one == what for one in ("model", "clip", "vae")}
    path = str(config.model_file(config.model.base))
    return comfy.sd.load_checkpoint_guess_config(path, output_clipvision=False, **wanted)[place]


def load_diffusion(config: Config, name: str) -> ModelPatcher:
    """Return a diffusion model, in the weights' dtype that the settings say."""
    path = config.model_file(name)
    if not path.is_file():
        raise FileNotFoundError(f"The diffusion model {path} does not exist. Put it there.")
    if name.startswith(CHECKPOINT):
        return from_checkpoint(config, "model", 0)
    dtype = WEIGHTS[config.model.weight_dtype]
    return comfy.sd.load_diffusion_model(str(path), {"dtype": dtype} if dtype else {})


def load_branch(config: Config, base: ModelPatcher) -> ModelPatcher:
    """Return the model of the few steps: the base, another, or the base with a LoRA.

    With a LoRA it is loaded a second time, since a model has its LoRA in all its steps or in none.
    """
    model = config.model
    if not model.branch and not model.branch_lora:
        return base
    other = load_diffusion(config, model.branch or model.base)
    if model.branch_lora:
        tensors = read_state_dict(config.model_file(model.branch_lora), EXPECTED_LORA)
        strength = model.branch_lora_strength
        other, _ = comfy.sd.load_lora_for_models(other, None, tensors, strength, 0.0)
    return other


def load_models(config: Config) -> Models:
    """Load all that training calls. Raises FileNotFoundError or ValueError naming a file."""
    model = config.model
    with torch.inference_mode(False):
        base = load_diffusion(config, model.base)
        other = load_branch(config, base)
        vae = load_vae(config)
        eva = load_eva_clip(config.model_file(model.eva_clip))
        judge = recognise(config, model.judge, base) if model.judge else None
        return Models(
            name=Path(model.base).stem,
            base=base,
            branch=other,
            others=[vae.patcher, eva.patcher],
            decode=decoder(vae),
            see=seer(eva.patcher, eva.image_size),
            recognise=recognise(config, model.recogniser, base),
            judge=judge,
        )


def decoder(vae: comfy.sd.VAE) -> Callable[[Base, Tensor], Tensor]:
    """Return what makes pictures of latents."""

    def decode(base: Base, latent: Tensor) -> Tensor:
        return branch.decode(vae, base, latent)

    return decode


def seer(tower: ModelPatcher, side: int) -> See:
    """Return what shows crops to EVA-CLIP, as *Encode PuLID Identity* does.

    The tower stays where it is loaded: the host's loading could send a part of the base away.
    """

    def see(crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        grey = (crops * torch.tensor(LUMA)).sum(-1, keepdim=True).expand_as(crops)
        model = tower.model
        pixels = normalise(grey, side).to(device_of(model), model.head.weight.dtype)
        with torch.no_grad():
            last, states = model.forward_intermediates(
                pixels,
                indices=hidden_blocks(len(model.blocks)),
                return_prefix_tokens=True,
                norm=False,
                output_fmt="NLC",
            )
            pooled = torch.nn.functional.normalize(model.head(last[:, 0]).float(), dim=-1)
        hidden = tuple(torch.cat((prefix, own), dim=1).float() for own, prefix in states)
        return pooled, hidden

    return see


def recognise(config: Config, name: str, base: ModelPatcher) -> Recognise:
    """Return a recogniser that finds its faces with the pack's detector."""
    net = load_recogniser(config.model_file(name)).to(base.load_device)
    sessions, _ = open_sessions(config.model_file(config.model.face_pack), PROVIDER)

    def vectors(pictures: Tensor) -> tuple[Tensor, Tensor]:
        points, found = find_points(pictures, sessions)
        return net.vectors(pictures, points), found.to(pictures.device)

    return vectors


def make_adapter(
    config: Config, models: Models, pictures: Pictures, resume: bool = False
) -> Adapter:
    """Return the adapter to train: read from a file, or new in the settings' sizes.

    resume: its weights come from a checkpoint, so no photos are asked for them.
    """
    own = config.adapter
    with torch.inference_mode(False):
        if own.start:
            adapter = adapter_files.load(config.model_file(own.start))
            adapter.fits(models.base)
            return adapter
        # spread over the set: pictures of one person often stand together
        every = pictures.train
        count = 1 if resume else min(max(1, own.calibrate), len(every))
        photos = [every[number * len(every) // count] for number in range(count)]
        id_cond, hidden = id_features(models, [pictures.sample(i) for i in photos])
        sizes = Sizes(
            dim=own.dim,
            inner=own.encoder_heads * HEAD_DIM,
            hidden=4 * own.dim,
            depth=own.depth,
            queries=own.queries,
            face_tokens=own.face_tokens,
            output=own.token_width,
            id_cond=id_cond.shape[-1],
            vit=hidden[0].shape[-1],
            mapping=own.dim,
        )
        made = new(models.base, sizes, own.heads, config.run.seed)
        if own.calibrate and not resume:
            calibrate(made, id_cond, hidden)
        return made
