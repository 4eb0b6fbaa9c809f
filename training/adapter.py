"""The adapter that is trained: an ID encoder and the layers that show its tokens to a model.

Its state dict *is* the PuLID file that Load PuLID Model and Load PuLID-SDXL Model take.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..identity import id_former, id_mlp
from ..identity.id_former import IDFormer
from ..identity.id_mlp import IDMLP
from ..identity.identity import FLUX, SDXL_V1, SDXL_V1_1
from ..pulid_flux import apply as flux
from ..pulid_flux.blocks import block_layers
from ..pulid_flux.cross_attention import CrossAttention
from ..pulid_sdxl import apply as sdxl
from ..pulid_sdxl.id_attention import PROJECTIONS, IDAttention
from ..pulid_sdxl.unet import attention_layers
from .flux import FluxIdentity, TrainedLayer
from .sdxl import SDXLIdentity

NARROW = (torch.bfloat16, torch.float16)


class Adapter(nn.Module):
    """An adapter of one family; ``dtype`` is what it computes in, whatever its weights' dtype is.

    ``name`` and ``metadata`` are those of the file it was read from.
    """

    family: str
    id_encoder: IDFormer | IDMLP
    layers: Sequence[nn.Module]  # in the file's order

    def __init__(self, name: str = "the adapter") -> None:
        super().__init__()
        self.name = name
        self.dtype = torch.float32
        self.metadata: dict[str, str] = {}

    def tokens(self, id_cond: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """Return ID tokens [B, T, C] with gradient.

        id_cond [B, M, 1280] of M photos a person (face vector and EVA-CLIP's pooled vector), five
        hidden states [B, M * S, 1024]. Zeros give the unconditional identity.
        """
        where = next(self.parameters())
        narrow = self.dtype in NARROW
        with torch.autocast(where.device.type, self.dtype if narrow else None, enabled=narrow):
            out = self.id_encoder(id_cond.to(where), [states.to(where) for states in hidden])
        return out.to(where.dtype)

    def identity(self, tokens: Tensor, weight: float | Tensor = 1.0) -> Any:
        """Return what a forward takes as its identity: tokens [B, T, C] through the layers."""
        raise NotImplementedError

    def fits(self, model: ModelPatcher) -> None:
        """Raise ValueError if the adapter is not made for this model."""
        raise NotImplementedError

    def save(
        self,
        path: Path,
        metadata: Mapping[str, str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write the PuLID file, completely or not at all; ``dtype``: of its tensors.

        ``metadata`` says what it was trained for and on (``base_model``, ``licence``, ``note``);
        layout and family are added. Raises RuntimeError if it cannot be written.
        """
        tensors = {k: v.detach().cpu().to(dtype or v.dtype) for k, v in self.state_dict().items()}
        about = {**self.metadata, **(metadata or {}), "family": self.family, **self.layout()}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".saving-", suffix=".tmp")
        os.close(handle)
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, name, about)
            os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
            os.replace(name, path)
        except (OSError, SafetensorError) as error:
            raise RuntimeError(
                f"The adapter could not be saved as {path}: {error}. Make room there, or make the "
                "folder writable."
            ) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def layout(self) -> dict[str, str]:
        """Return how the layers lie in the model, as the file's metadata say it."""
        raise NotImplementedError


class FluxAdapter(Adapter):
    """An adapter for a model of FLUX's blocks: ``double_layers`` of its layers for double ones."""

    family = FLUX

    def __init__(
        self,
        encoder: id_former.Sizes,
        width: int,
        layers: int,
        heads: int,
        double_layers: int | None,
        name: str = "the adapter",
    ):
        super().__init__(name)
        self.double_layers = double_layers
        self.width = width
        self.pulid_encoder = IDFormer(encoder)
        self.pulid_ca = nn.ModuleList(
            CrossAttention(width, encoder.output, heads) for _ in range(layers)
        )

    @property
    def id_encoder(self) -> IDFormer:
        return self.pulid_encoder

    @property
    def layers(self) -> nn.ModuleList:
        return self.pulid_ca

    def identity(self, tokens: Tensor, weight: float | Tensor = 1.0) -> FluxIdentity:
        """tokens [B, T, C]; weight a number, or [B, N, 1] for each image token."""
        layers = [TrainedLayer(layer, tokens, self.dtype) for layer in self.layers]
        gain = torch.as_tensor(weight, dtype=tokens.dtype).to(tokens.device, non_blocking=True)
        return FluxIdentity(layers, self.double_layers, gain)

    def blocks(self, model: ModelPatcher) -> tuple[tuple[str, int, int], ...]:
        """Return block name, index and layer of each block of ``model`` that takes identity."""
        return flux.describe(model, self).blocks

    def fits(self, model: ModelPatcher) -> None:
        flux.describe(model, self)

    def layout(self) -> dict[str, str]:
        double = "" if self.double_layers is None else f"{self.double_layers}"
        return {"double_layers": double} if double else {}


class SDXLAdapter(Adapter):
    """An adapter for SDXL's UNet, as PuLID v1.1 or, by its encoder's sizes, v1.

    It is trained with these two settings, which Apply PuLID-SDXL Identity has as well.
    """

    def __init__(
        self,
        encoder: id_former.Sizes | id_mlp.Sizes,
        widths: Sequence[int],
        num_zero: int = 0,
        projection: str = PROJECTIONS[-1],
        name: str = "the adapter",
    ):
        super().__init__(name)
        self.num_zero, self.projection = num_zero, projection
        first = isinstance(encoder, id_mlp.Sizes)
        self.family = SDXL_V1 if first else SDXL_V1_1
        self.id_adapter = IDMLP(encoder) if first else IDFormer(encoder)
        self.id_adapter_attn_layers = nn.ModuleDict(
            {f"{2 * i + 1}": IDAttention(width, encoder.output) for i, width in enumerate(widths)}
        )

    @property
    def id_encoder(self) -> IDFormer | IDMLP:
        return self.id_adapter

    @property
    def layers(self) -> list[IDAttention]:
        return list(self.id_adapter_attn_layers.values())

    def identity(self, tokens: Tensor, weight: float | Tensor = 1.0) -> SDXLIdentity:
        """tokens [B, T, C]; weight a number."""
        settings = (float(weight), self.num_zero, self.projection, self.dtype)
        return SDXLIdentity(self.layers, tokens, *settings)

    def fits(self, model: ModelPatcher) -> None:
        sdxl.describe(model, self)

    def layout(self) -> dict[str, str]:
        return {"num_zero": f"{self.num_zero}", "projection": self.projection}


def new(
    model: ModelPatcher,
    encoder: id_former.Sizes | id_mlp.Sizes | None = None,
    heads: int = 16,
    seed: int = 0,
) -> Adapter:
    """Return an untrained adapter for ``model``, which changes nothing yet.

    ``encoder`` has the ID encoder's sizes; None: those of the authors' files.
    ``heads`` of 128 values has each of FLUX's layers; SDXL's use those of the model's own layers.
    torch's random state stays as it is.
    """
    net, encoder = model.model.diffusion_model, encoder or id_former.Sizes()
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(net, "double_blocks"):
            blocks = block_layers(len(net.double_blocks), len(net.single_blocks))
            double = sum(name == "double_block" for name, *_ in blocks)
            made: Adapter = FluxAdapter(encoder, net.hidden_size, len(blocks), heads, double)
        else:
            made = SDXLAdapter(encoder, [layer.width for layer in attention_layers(net)])
        for layer in made.layers:
            last = layer.to_out if isinstance(layer, CrossAttention) else layer.id_to_v
            nn.init.zeros_(last.weight)
    made.fits(model)
    return made
