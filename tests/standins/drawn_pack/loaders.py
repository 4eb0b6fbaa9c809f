"""The drawn world's text encoder behind ComfyUI's real CLIP object, and its codec as a VAE."""

from __future__ import annotations

import sys
from importlib import import_module

import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget
from safetensors.torch import load_file
from torch.nn.functional import interpolate

ENLARGED = 2  # a latent is an eighth of what is shown, and a quarter of what is drawn


def micro_world(name: str):
    """Return a module of the pack's micro_world, under the name that ComfyUI gave the pack."""
    pack = next(n for n in sys.modules if n.endswith("pulid-flux-native"))
    return import_module(f"{pack}.micro_world.{name}")


class Tokenizer:
    """Hands the prompt on as it is."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text, return_word_ids=False, **_):
        return {"prompt": text}

    def state_dict(self):
        return {}


class Words(torch.nn.Module):
    """Seven tokens for a person's seven lines."""

    disable_offload = True

    def __init__(self, device=None, dtype=None, model_options=None):
        super().__init__()
        self.dtypes = {torch.float32}

    def set_clip_options(self, options):
        """Accept ComfyUI's options; none of them matters here."""

    def reset_clip_options(self):
        """Accept ComfyUI's call; there is nothing to reset."""

    def encode_token_weights(self, tokens):
        """Return the tokens [1, 7 or 14, 64] and the pooled vector [1, 32], which is zero."""
        text = micro_world("prompts").tokens_of(tokens["prompt"])
        return text[None], torch.zeros(1, micro_world("flux").POOLED)


def load_clip() -> comfy.sd.CLIP:
    """Return ComfyUI's CLIP object with the drawn world's prompts."""
    return comfy.sd.CLIP(ClipTarget(Tokenizer, Words), parameters=0)


class DrawnVAE:
    """What ComfyUI's VAE nodes call, for the drawn world's codec."""

    def __init__(self, path):
        self.codec = micro_world("codec").Codec(**load_file(path))

    def decode(self, samples, **_):
        """Latents [B, 16, h, w] as the VAE's -> pictures [B, 8 h, 8 w, 3] in 0..1."""
        small = self.codec.decode(micro_world("pool").as_sampled(samples)).clamp(0, 1)
        return interpolate(small, scale_factor=ENLARGED, mode="bicubic").clamp(0, 1).movedim(1, -1)

    def encode(self, pixels):
        """Pictures [B, 8 h, 8 w, 3] in 0..1 -> latents [B, 16, h, w]."""
        small = interpolate(
            pixels.movedim(-1, 1), scale_factor=1 / ENLARGED, mode="bilinear", antialias=True
        )
        return self.codec.encode(small)

    def spacial_compression_encode(self):
        return 8

    def spacial_compression_decode(self):
        return 8
