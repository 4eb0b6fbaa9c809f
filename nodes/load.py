"""The nodes that load models."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..encoders.eva_clip import load_eva_clip
from ..encoders.faces import PROVIDER_CHOICES, load_face_analysis
from ..pulid_flux.checkpoint import load_pulid
from ..pulid_sdxl.checkpoint import load_pulid_sdxl
from . import folders, types
from .feedback import Note, show

OWN_KEYPOINTS = "model pack"


class PuLIDFluxLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxLoadModel",
            display_name="Load PuLID Model",
            category=types.CATEGORY,
            description="Load a PuLID-FLUX file (models/pulid).",
            search_aliases=["pulid", "PulidFluxModelLoader", "face id", "identity"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folders.options(folders.PULID),
                    tooltip="The PuLID-FLUX file. v0.9.1 gives a better likeness than v0.9.0.",
                )
            ],
            outputs=[types.Model.Output(display_name="pulid_model")],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_pulid(folders.find(folders.PULID, model_name)))

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return folders.problem(folders.PULID, model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None) -> Any:
        return folders.fingerprint(folders.PULID, model_name)


class PuLIDSDXLLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDSDXLLoadModel",
            display_name="Load PuLID-SDXL Model",
            category=types.SDXL_CATEGORY,
            description="Load a PuLID file for SDXL, v1 or v1.1 (models/pulid).",
            search_aliases=["pulid", "sdxl", "PulidModelLoader", "face id", "identity"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folders.options(folders.PULID_SDXL),
                    tooltip="The PuLID-SDXL file: v1.1 for ordinary SDXL models, v1 for "
                    "SDXL-Lightning. The authors' files or converted ones (ip-adapter_pulid…).",
                )
            ],
            outputs=[types.SDXLModel.Output(display_name="pulid_model")],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_pulid_sdxl(folders.find(folders.PULID_SDXL, model_name)))

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return folders.problem(folders.PULID_SDXL, model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None) -> Any:
        return folders.fingerprint(folders.PULID_SDXL, model_name)


class PuLIDFluxLoadEVACLIP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxLoadEVACLIP",
            display_name="Load EVA-CLIP",
            category=types.CATEGORY,
            description="Load the vision tower that looks at the face (models/eva_clip).",
            search_aliases=["pulid", "eva clip", "PulidFluxEvaClipLoader"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folders.options(folders.EVA_CLIP),
                    tooltip="EVA02-CLIP-L-14-336: the original .pt or open_clip's .safetensors.",
                )
            ],
            outputs=[types.EvaClip.Output(display_name="eva_clip")],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_eva_clip(folders.find(folders.EVA_CLIP, model_name)))

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return folders.problem(folders.EVA_CLIP, model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None) -> Any:
        return folders.fingerprint(folders.EVA_CLIP, model_name)


class PuLIDFluxLoadInsightFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PuLIDFluxLoadInsightFace",
            display_name="Load InsightFace",
            category=types.CATEGORY,
            description=(
                "Load the models that find, recognise and crop faces. InsightFace's own models "
                "are for non-commercial use only."
            ),
            search_aliases=["pulid", "antelopev2", "PulidFluxInsightFaceLoader"],
            inputs=[
                io.Combo.Input(
                    "model_pack",
                    options=folders.options(folders.FACE_PACK),
                    tooltip="The folder with the detector and the recogniser: antelopev2.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(PROVIDER_CHOICES),
                    default="auto",
                    tooltip="What the face models run on. auto is the CPU: 0.1 to 1 s per photo "
                    "and no graphics memory. The node shows what they really run on.",
                ),
                io.Combo.Input(
                    "parsing_model",
                    options=folders.options(folders.PARSING),
                    tooltip="facexlib's BiSeNet, which separates face and hair from the rest.",
                ),
                io.Combo.Input(
                    "landmarks",
                    options=[OWN_KEYPOINTS, *folders.files(folders.LANDMARKS)],
                    default=OWN_KEYPOINTS,
                    tooltip="Which points the face is aligned by: the model pack's five, or "
                    "facexlib's RetinaFace as in the authors' code (slower, needs its file).",
                ),
            ],
            outputs=[types.FaceAnalysis.Output(display_name="face_analysis")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model_pack: str, provider: str, parsing_model: str, landmarks: str
    ) -> io.NodeOutput:
        own = landmarks == OWN_KEYPOINTS
        wanted = [(folders.FACE_PACK, model_pack), (folders.PARSING, parsing_model)]
        if not own:
            wanted.append((folders.LANDMARKS, landmarks))
        problems = [text for kind, name in wanted if (text := folders.problem(kind, name))]
        if problems:
            raise FileNotFoundError("\n\n".join(problems))
        pack, parsing, *retinaface = [folders.find(kind, name) for kind, name in wanted]
        analysis = load_face_analysis(pack, provider, parsing, None if own else retinaface[0])
        notes = [Note(f"Face models on {analysis.provider}")]
        notes += [Note(text, warning=True) for text in analysis.notes]
        return io.NodeOutput(analysis, ui=show(cls, notes))

    @classmethod
    def validate_inputs(
        cls,
        model_pack: str | None,
        provider: str | None,
        parsing_model: str | None,
        landmarks: str | None,
    ) -> bool | str:
        # execute names everything that is missing at once, which says more than "not in list", and
        # accepts the provider names of version 0.1
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        model_pack: str | None,
        provider: str | None,
        parsing_model: str | None,
        landmarks: str | None,
    ) -> Any:
        parts = folders.fingerprint(folders.FACE_PACK, model_pack)
        parts += folders.fingerprint(folders.PARSING, parsing_model)
        if landmarks != OWN_KEYPOINTS:
            parts += folders.fingerprint(folders.LANDMARKS, landmarks)
        return [provider, *parts]


NODES = [PuLIDFluxLoadModel, PuLIDSDXLLoadModel, PuLIDFluxLoadEVACLIP, PuLIDFluxLoadInsightFace]
