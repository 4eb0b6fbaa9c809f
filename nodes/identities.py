"""Identities as files and as mixtures."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..host_versions import newer
from ..identity.blending import blend
from ..identity.files import checked_name, load_identity, save_identity
from ..identity.identity import Identity
from . import folders, types

DTYPES = {"float32": torch.float32, "float16": torch.float16}
METHODS = ("spherical", "linear")
BLENDABLE = 4


class PuLIDFluxSaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxSaveIdentity",
            display_name="Save PuLID Identity",
            category=types.CATEGORY,
            description=(
                "Save an identity as a file in models/pulid_identities. No face model is needed "
                "to use it again."
            ),
            search_aliases=["pulid", "identity", "face"],
            inputs=[
                types.Identity.Input("identity", tooltip="From Encode or Blend PuLID Identity."),
                io.String.Input(
                    "name", default="person", tooltip="The file name, without folders."
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Off: stop if an identity with that name exists. On: replace it.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="float32",
                    tooltip="float32 is exact (0.5 MB), float16 is half the size.",
                ),
                io.Image.Input(
                    "preview",
                    optional=True,
                    tooltip="An image to recognise the file by, such as the face crop. It is "
                    "stored in the file, scaled to at most 256 pixels.",
                ),
            ],
            outputs=[types.Identity.Output(display_name="identity")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        identity: Identity,
        name: str,
        overwrite: bool,
        precision: str,
        preview: Tensor | None = None,
    ) -> io.NodeOutput:
        types.check_links({"preview": preview}, identity=identity)
        types.check_choice("precision", precision, DTYPES)
        path = folder() / f"{checked_name(name)}.safetensors"
        picture = None if preview is None else preview[0]
        save_identity(identity, path, DTYPES[precision], picture, overwrite)
        shown = ui.PreviewText(f"Saved {path.name}").as_dict()
        return io.NodeOutput(identity, ui=shown | {"pulid_identity": [served(path)]})

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        try:
            if name is not None:  # else it comes from a link, and execute looks at it
                checked_name(name)
        except ValueError as error:
            return str(error)
        return True


class PuLIDFluxLoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxLoadIdentity",
            display_name="Load PuLID Identity",
            category=types.CATEGORY,
            description="Load a saved identity; no face model is needed.",
            search_aliases=["pulid", "identity", "face"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=folders.options(folders.IDENTITY),
                    tooltip="A file in models/pulid_identities.",
                )
            ],
            outputs=[types.Identity.Output(display_name="identity")],
            hidden=[io.Hidden.unique_id],
            **newer(has_intermediate_output=True),  # show the pictures of a cached run too
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        identity, preview = load_identity(find(name))
        shown = None if preview is None else ui.PreviewImage(preview[None], cls=cls)
        return io.NodeOutput(identity, ui=shown)

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        return folders.problem(folders.IDENTITY, name) or True

    @classmethod
    def fingerprint_inputs(cls, name: str | None) -> Any:
        if name is None:  # it comes from a link
            return None
        # by content: the file is small, and some programs keep its modification time
        return hashlib.sha256(find(name).read_bytes()).hexdigest()


class PuLIDFluxBlendIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for i in range(1, BLENDABLE + 1):
            inputs.append(
                types.Identity.Input(
                    f"identity_{i}", optional=i > 2, tooltip="An identity to mix in."
                )
            )
        for i in range(1, BLENDABLE + 1):
            inputs.append(
                io.Float.Input(
                    f"weight_{i}",
                    default=1.0,
                    min=-5.0,
                    max=5.0,
                    step=0.05,
                    optional=i > 2,
                    advanced=i > 2 or None,
                    tooltip=f"The weight of identity {i}; the weights need not add up to 1.",
                )
            )
        return io.Schema(
            node_id="PuLIDFluxBlendIdentities",
            display_name="Blend PuLID Identities",
            category=types.CATEGORY,
            description="Mix up to four identities into one person.",
            search_aliases=["pulid", "identity", "face", "mix"],
            inputs=[
                *inputs,
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="spherical keeps the mix as strong as what goes into it; linear is "
                    "the plain weighted average.",
                ),
            ],
            outputs=[types.Identity.Output(display_name="identity")],
        )

    @classmethod
    def execute(cls, method: str, **inputs: Any) -> io.NodeOutput:
        given = [i for i in range(1, BLENDABLE + 1) if inputs.get(f"identity_{i}") is not None]
        types.check_choice("method", method, METHODS)
        types.check_links({}, **{f"identity_{i}": inputs[f"identity_{i}"] for i in given})
        identities = [inputs[f"identity_{i}"] for i in given]
        weights = [inputs.get(f"weight_{i}", 1.0) for i in given]
        return io.NodeOutput(blend(identities, weights, method == "spherical"))


def folder() -> Path:
    """Return the folder identities are written to, the first registered one."""
    return Path(folder_paths.get_folder_paths("pulid_identities")[0])


def served(path: Path) -> dict[str, str]:
    """Copy a file to where ComfyUI's ``/view`` finds it; return what a program asks that for."""
    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    name = f"pulid_identity_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.safetensors"
    shutil.copyfile(path, temp / name)
    return {"filename": name, "subfolder": "", "type": "temp"}


def find(name: str) -> Path:
    """Return an identity's file by its name in the list."""
    return folders.find(folders.IDENTITY, name)


NODES = [PuLIDFluxSaveIdentity, PuLIDFluxLoadIdentity, PuLIDFluxBlendIdentities]
