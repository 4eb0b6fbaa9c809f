"""An asynchronous client for ComfyUI servers with PuLID-Flux Native.

async with Client("http://127.0.0.1:8188") as comfy:
    picture = await comfy.render("flux_pulid_basic", photo="me.jpg", prompt="a person at sea")
    picture.save("out.png")
"""

from .client import Client, OnEvent
from .errors import NodeFailed, PromptLost, PromptRefused, ServerError, ServerGone
from .results import Picture, Progress, Result
from .workflows import Prompt, set_inputs, titles

__all__ = [
    "Client",
    "NodeFailed",
    "OnEvent",
    "Picture",
    "Progress",
    "Prompt",
    "PromptLost",
    "PromptRefused",
    "Result",
    "ServerError",
    "ServerGone",
    "set_inputs",
    "titles",
]
