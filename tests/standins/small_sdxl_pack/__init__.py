"""A custom node pack for tests: ComfyUI knows an SDXL of small widths, with a small text encoder.

The host detects SDXL by its widths, and at these a file has half a gigabyte at least. So the pack
adds a kind of model that is SDXL in everything but widths: class, sampling, latents, size vector.
The text encoders of SDXL have one size only, 0.8 billion numbers together; a checkpoint without
them gets a small one behind ComfyUI's real CLIP object and SDXL's real tokenizers.
"""

import comfy.supported_models

import nodes

from .encoder import CONTEXT, load_clip

WIDTH = 64  # the original has 320


class SmallSDXL(comfy.supported_models.SDXL):
    """SDXL with fewer channels and narrower text."""

    unet_config = comfy.supported_models.SDXL.unet_config | {
        "model_channels": WIDTH,
        "context_dim": CONTEXT,
    }


class StandInCheckpointLoader(nodes.CheckpointLoaderSimple):
    """The core loader; a checkpoint without a text encoder gets the small one."""

    def load_checkpoint(self, ckpt_name):
        """Return model, text encoder and VAE."""
        model, clip, vae = super().load_checkpoint(ckpt_name)
        return model, clip or load_clip(), vae


comfy.supported_models.models.append(SmallSDXL)
nodes.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"] = StandInCheckpointLoader
NODE_CLASS_MAPPINGS: dict[str, type] = {}
