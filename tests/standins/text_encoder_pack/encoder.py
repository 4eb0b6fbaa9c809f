"""A small deterministic text encoder behind ComfyUI's real CLIP object."""

from __future__ import annotations

import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.flux import FluxTokenizer

TEXT_WIDTH, POOLED_WIDTH = 4096, 768  # T5-XXL's and CLIP-L's
CODE_WIDTH = 64
TOKENS = 64  # the real one pads to 256; fewer make the stand-in FLUX faster
T5_VOCABULARY, CLIP_VOCABULARY = 32128, 49408


class SmallTextEncoder(torch.nn.Module):
    """Random codes for the tokens, widened to what FLUX takes: other words, other embeddings."""

    disable_offload = True

    def __init__(self, device=None, dtype=None, model_options=None):
        super().__init__()
        self.dtypes = {torch.float32}
        generator = torch.Generator().manual_seed(3)

        def table(rows: int, columns: int) -> torch.nn.Parameter:
            values = torch.randn(rows, columns, generator=generator)
            return torch.nn.Parameter(values.to(device), requires_grad=False)

        self.words = table(T5_VOCABULARY, CODE_WIDTH)
        self.widen = table(CODE_WIDTH, TEXT_WIDTH)
        self.pooled_words = table(CLIP_VOCABULARY, CODE_WIDTH)
        self.pooled_widen = table(CODE_WIDTH, POOLED_WIDTH)

    def set_clip_options(self, options):
        """Accept ComfyUI's options; none of them matters here."""

    def reset_clip_options(self):
        """Accept ComfyUI's call; there is nothing to reset."""

    def encode_token_weights(self, tokens):
        """Return the embeddings [1, 64 n, 4096] and the pooled vector [1, 768]."""
        pairs = [pair for section in tokens["t5xxl"] for pair in section]
        words = [(token, weight) for token, weight, *_ in pairs if token != 0]  # 0 is padding
        words += [(0, 1.0)] * (-len(words) % TOKENS or (0 if words else TOKENS))
        embeddings = self.look_up(words, self.words) @ self.widen / CODE_WIDTH**0.5
        pooled = [(token, weight) for token, weight, *_ in tokens["l"][0]]
        pooled = self.look_up(pooled, self.pooled_words).mean(dim=0) @ self.pooled_widen
        return embeddings[None], pooled[None] / CODE_WIDTH**0.5

    def look_up(self, pairs: list[tuple[int, float]], table: torch.Tensor) -> torch.Tensor:
        """Return each token's code times its weight and its place's sign, [tokens, 64]."""
        ids = torch.tensor([token for token, _ in pairs], device=table.device)
        weights = torch.tensor([weight for _, weight in pairs], device=table.device)
        order = 1.0 + 0.5 * torch.sin(torch.arange(len(pairs), device=table.device))
        return table[ids] * (weights * order)[:, None]


def load_clip() -> comfy.sd.CLIP:
    """Return ComfyUI's CLIP object with FLUX's tokenizers and the small encoder."""
    return comfy.sd.CLIP(ClipTarget(FluxTokenizer, SmallTextEncoder), parameters=6_000_000)
