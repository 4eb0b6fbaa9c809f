"""PuLID-Flux Native: a person's identity from a photo in FLUX images, through ComfyUI's hooks."""

import logging

from .host_versions import too_old

WEB_DIRECTORY = "./js"

if why := too_old():
    logging.getLogger(__name__).error(why)
    NODE_CLASS_MAPPINGS = {}  # an empty pack: without any entry ComfyUI would report a failure
    WEB_DIRECTORY = None
else:
    from .nodes import comfy_entrypoint  # noqa: F401
