"""onnxruntime's providers: which one runs the face models, and what it is asked for."""

from __future__ import annotations

import comfy.model_management

from .packages import require

PURPOSE = "Load InsightFace"
AUTO = "auto"
CPU = "CPU"
# Our names and onnxruntime's; the node lists them in this order.
PROVIDERS = {
    CPU: "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "MIGraphX": "MIGraphXExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
}
PROVIDER_CHOICES = (AUTO, *PROVIDERS)
# What version 0.1 called AMD's provider; onnxruntime has dropped it for the other.
RENAMED = {"ROCM": "MIGraphX"}
# The type of torch device that a provider counts in the same way.
COUNTED_AS = {"CUDA": "cuda", "MIGraphX": "cuda", "DirectML": "privateuseone"}


def choose_provider(provider: str) -> tuple[str, tuple[str, ...]]:
    """Return the key of PROVIDERS to use for ``provider``, and notes for the user.

    ``auto`` is the CPU: it takes 0.1 to 1 s a photo, less than an accelerator takes to start. A
    name of version 0.1 goes on working, on the CPU where its successor is absent. Raises
    ValueError for an unknown provider, or one that this onnxruntime does not offer.
    """
    if provider == AUTO:
        return CPU, ()
    offered = offered_providers()
    if provider in RENAMED:
        heir = RENAMED[provider]
        here = heir if heir in offered else CPU
        absent = "" if heir in offered else f", which this onnxruntime does not have: {CPU} is used"
        return here, (f"The provider {provider} has become {heir}{absent}.",)
    if provider not in PROVIDERS:
        raise ValueError(
            f"Unknown provider {provider!r}; choose one of {', '.join(PROVIDER_CHOICES)}."
        )
    if provider not in offered:
        raise ValueError(
            f"onnxruntime does not offer the provider {provider} here; it offers "
            f"{', '.join(offered)}. Choose auto or one of these, or install the onnxruntime build "
            f"for {provider} instead of the current one."
        )
    return provider, ()


def offered_providers() -> list[str]:
    """Return the keys of PROVIDERS that the installed onnxruntime lists; it may fail to start."""
    listed = require("onnxruntime", PURPOSE).get_available_providers()
    return [name for name, full in PROVIDERS.items() if full in listed]


def provider_arguments(provider: str) -> dict[str, list]:
    """Return the arguments of an onnxruntime session: ``provider`` first, then the CPU."""
    names = list(dict.fromkeys((provider, CPU)))
    options = [provider_options(name) for name in names]
    return {"providers": [PROVIDERS[name] for name in names], "provider_options": options}


def provider_options(provider: str) -> dict[str, str]:
    """Return onnxruntime's options for ``provider``: ComfyUI's own device, a quick start."""
    options = {}
    if provider in COUNTED_AS:
        device = comfy.model_management.get_torch_device()
        if device.type == COUNTED_AS[provider]:
            options["device_id"] = str(device.index or 0)
    if provider == "CUDA":
        # The default tries every algorithm of cuDNN, which takes longer than all photos together.
        options["cudnn_conv_algo_search"] = "HEURISTIC"
    return options


def prepare_libraries(provider: str) -> None:
    """Let onnxruntime (1.21 or later) find the CUDA and cuDNN libraries that come with torch."""
    preload = getattr(require("onnxruntime", PURPOSE), "preload_dlls", None)
    if provider == "CUDA" and preload:
        preload()
