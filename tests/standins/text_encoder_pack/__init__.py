"""A custom node pack for tests: ``DualCLIPLoader`` returns a small text encoder.

T5-XXL has one size only, 4.7 billion parameters, so no small file can stand for it. Everything
after the loader is ComfyUI's own: the CLIP object, the tokenizers, the text encode nodes.
ComfyUI keeps a pack from replacing a core node, so the mapping is set here by hand.
"""

import gc

import nodes

from .encoder import load_clip


class StandInDualCLIPLoader(nodes.DualCLIPLoader):
    """The core loader with the same inputs; the chosen files have to exist but are not read."""

    def load_clip(self, clip_name1, clip_name2, type, device="default"):
        """Return the small encoder."""
        return (load_clip(),)


nodes.NODE_CLASS_MAPPINGS["DualCLIPLoader"] = StandInDualCLIPLoader
NODE_CLASS_MAPPINGS: dict[str, type] = {}

# The host looks for garbage among everything that is imported whenever a model is gone, which takes
# longer than most prompts of the tests: what is there by now stays anyhow.
gc.freeze()
