"""A custom node pack for tests: *Load VAE* and *DualCLIPLoader* of the drawn world.

Its prompts are seven words and its VAE is a matrix, which ComfyUI's own loaders cannot take.
Everything after the loaders is ComfyUI's own. ComfyUI keeps a pack from replacing a core node, so
the mapping is set here by hand.
"""

import folder_paths

import nodes

from .loaders import DrawnVAE, load_clip


class DrawnVAELoader(nodes.VAELoader):
    """The core loader with the same inputs."""

    def load_vae(self, vae_name, **_):
        """Return the codec of a file."""
        return (DrawnVAE(folder_paths.get_full_path_or_raise("vae", vae_name)),)


class DrawnDualCLIPLoader(nodes.DualCLIPLoader):
    """The core loader with the same inputs; the chosen files have to exist but are not read."""

    def load_clip(self, clip_name1, clip_name2, type, device="default"):
        """Return the drawn world's prompts."""
        return (load_clip(),)


nodes.NODE_CLASS_MAPPINGS["VAELoader"] = DrawnVAELoader
nodes.NODE_CLASS_MAPPINGS["DualCLIPLoader"] = DrawnDualCLIPLoader
NODE_CLASS_MAPPINGS: dict[str, type] = {}
