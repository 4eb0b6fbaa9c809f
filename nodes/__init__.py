"""What the user sees: sockets, folders, UI. The methods are in the other folders."""

from comfy_api.latest import ComfyExtension, io

from . import apply, encode, folders, identities, load, measure, sdxl, window_steps
from .old_packs import prompts

NODES: list[type[io.ComfyNode]] = [
    *load.NODES,
    *encode.NODES,
    *apply.NODES,
    *sdxl.NODES,
    *identities.NODES,
    *measure.NODES,
]


class PuLIDFluxExtension(ComfyExtension):
    async def on_load(self) -> None:
        folders.register()
        await prompts.register()
        window_steps.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> PuLIDFluxExtension:
    return PuLIDFluxExtension()
