"""A small deterministic text encoder for SDXL behind ComfyUI's real CLIP object."""

from __future__ import annotations

import comfy.sd
import torch
from comfy.sdxl_clip import SDXLTokenizer
from comfy.supported_models_base import ClipTarget

CONTEXT = 256  # of the text; the original has 2048
POOLED_WIDTH = 1280  # CLIP-G's
CODE_WIDTH, VOCABULARY = 64, 49408


class SmallTextEncoder(torch.nn.Module):
    """Random codes for the tokens, widened to the small SDXL's text."""

    disable_offload = True

    def __init__(self, device=None, dtype=None, model_options=None):
        super().__init__()
        self.dtypes = {torch.float32}
        generator = torch.Generator().manual_seed(4)

        def table(rows: int, columns: int) -> torch.nn.Parameter:
            values = torch.randn(rows, columns, generator=generator)
            return torch.nn.Parameter(values.to(device), requires_grad=False)

        self.words = table(VOCABULARY, CODE_WIDTH)
        self.widen = table(CODE_WIDTH, CONTEXT)
        self.pool = table(CODE_WIDTH, POOLED_WIDTH)

    def set_clip_options(self, options):
        """Accept ComfyUI's options; none of them matters here."""

    def reset_clip_options(self):
        """Accept ComfyUI's call; there is nothing to reset."""

    def encode_token_weights(self, tokens):
        """Return the embeddings [1, 77 n, context] and the pooled vector [1, 1280]."""
        pairs = [pair for section in tokens["g"] for pair in section]
        ids = torch.tensor([token for token, *_ in pairs], device=self.words.device)
        weights = torch.tensor([weight for _, weight, *_ in pairs], device=self.words.device)
        order = 1.0 + 0.5 * torch.sin(torch.arange(len(pairs), device=self.words.device))
        codes = self.words[ids] * (weights * order)[:, None] / CODE_WIDTH**0.5
        return (codes @ self.widen)[None], codes.mean(dim=0, keepdim=True) @ self.pool


def load_clip() -> comfy.sd.CLIP:
    """Return ComfyUI's CLIP object with SDXL's tokenizers and the small encoder."""
    return comfy.sd.CLIP(ClipTarget(SDXLTokenizer, SmallTextEncoder), parameters=4_000_000)
