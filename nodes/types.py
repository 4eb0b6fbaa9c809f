"""The pack's sockets."""

from comfy_api.latest import io

Model = io.Custom("PULID_FLUX_MODEL")
EvaClip = io.Custom("PULID_EVA_CLIP")
FaceAnalysis = io.Custom("PULID_FACE_ANALYSIS")
Identity = io.Custom("PULID_IDENTITY")

CATEGORY = "PuLID-Flux"
