"""A custom node pack for tests: an output node that counts the models alive in the server."""

import gc

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher


class ModelCensus:
    """Counts what ComfyUI has loaded, and every patcher and module that anything still holds."""

    CATEGORY = "tests"
    FUNCTION = "count"
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")  # never the same: counted anew in every prompt

    def count(self):
        """Return the counts for the page, after a collection of what nobody holds."""
        gc.collect()
        comfy.model_management.cleanup_models()
        alive = gc.get_objects()
        counts = {
            "loaded": len(comfy.model_management.current_loaded_models),
            "patchers": sum(isinstance(found, ModelPatcher) for found in alive),
            "modules": sum(isinstance(found, torch.nn.Module) for found in alive),
        }
        return {"ui": {"census": [counts]}}


NODE_CLASS_MAPPINGS = {"ModelCensus": ModelCensus}
