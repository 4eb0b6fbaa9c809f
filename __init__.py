"""PuLID-Flux Native: a person's identity from a photo in FLUX pictures, through ComfyUI's seams."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./js"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
