"""A custom node pack for tests: an output node that counts models alive, and runs of encoders."""

import gc
from collections import Counter

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

# one forward of each means one look at a photo: face parser, EVA-CLIP, ID encoder
ENCODERS = {"BiSeNet": "parser", "PatchEmbed": "eva", "IDFormer": "id_encoder"}
# what the pack's nodes hand on
RECORDS = (
    "PulidModel",
    "EvaClip",
    "FaceAnalysis",
    "IDEncoder",
    "Identity",
    "Encoded",
    "FluxUse",
    "Fold",
)
runs: Counter = Counter()


def count_run(module, args, output):
    """Count a forward of an encoder."""
    if kind := ENCODERS.get(type(module).__name__):
        runs[kind] += 1


def count_fold(module, name, submodule):
    """Count a layer into which ID tokens are folded."""
    if type(module).__name__ == "FoldedLayer" and name == "scores":
        runs["folded"] += 1


torch.nn.modules.module.register_module_forward_hook(count_run)
torch.nn.modules.module.register_module_module_registration_hook(count_fold)


class ModelCensus:
    """Counts what ComfyUI has loaded, and every patcher and module that anything still holds."""

    CATEGORY = "tests"
    FUNCTION = "count"
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"after": ("*",)}}

    @classmethod
    def IS_CHANGED(cls, after=None):
        return float("nan")  # never the same: counted anew in every prompt

    def count(self, after=None):
        """Return the counts for the page, after a collection of what nobody holds."""
        gc.collect()
        comfy.model_management.cleanup_models()
        alive = gc.get_objects()
        counts = {
            "loaded": len(comfy.model_management.current_loaded_models),
            "patchers": sum(isinstance(found, ModelPatcher) for found in alive),
            "modules": sum(isinstance(found, torch.nn.Module) for found in alive),
        }
        records = sum(type(found).__name__ in RECORDS for found in alive)
        return {"ui": {"census": [counts], "records": [records], "runs": [dict(runs)]}}


class Anything:
    """Hands a text on as an output of any type, as other packs' nodes do."""

    CATEGORY = "tests"
    FUNCTION = "give"
    RETURN_TYPES = ("*",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def give(self, text):
        return (text,)


class Sink:
    """An output node that wants one thing of any type, and does nothing with it."""

    CATEGORY = "tests"
    FUNCTION = "take"
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": ("*",)}}

    def take(self, thing):
        return {}


NODE_CLASS_MAPPINGS = {"ModelCensus": ModelCensus, "Anything": Anything, "Sink": Sink}
