"""The authors' numbers, to 1e-4 in float32 as tests/golden/README.md states."""

from __future__ import annotations

import json

import comfy.sd
import pytest
import torch
from golden.weights import golden_input, golden_state_dict
from places import GOLDEN
from pulid_pack.identity.identity import Identity
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.checkpoint import build_layers, from_state_dict
from pulid_pack.pulid_flux.cross_attention import FoldedLayer, FoldingLayer
from safetensors.torch import load_file
from standins.pulid import encoder_shapes

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's

MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
TOLERANCE = 1e-4


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(str(GOLDEN / f"{name}.safetensors"))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def layer():
    with torch.inference_mode():
        return build_layers(golden_state_dict(MANIFEST["perceiver_ca"]["shapes"]), "golden")[0]


def test_cross_attention(layer):
    tokens, img = golden_input("ca.id", (2, 7, 96)), golden_input("ca.img", (2, 33, 256))
    close(layer(tokens, img), golden("perceiver_ca")["out"])


def test_cross_attention_folded(layer):
    tokens, img = golden_input("ca.id", (2, 7, 96)), golden_input("ca.img", (2, 33, 256))
    x, gain = torch.nn.functional.layer_norm(img, (256,)), torch.tensor(1.0)
    folding, out = FoldingLayer(layer, torch.device("cpu")), torch.empty_like(img)
    for row in (slice(0, 1), slice(1, 2)):
        folded = FoldedLayer(*folding.fold(tokens[row]), layer.heads)
        folded(x[row], gain, img[row], out[row])
    close(out - img, golden("perceiver_ca")["out"])


def id_inputs() -> tuple[torch.Tensor, list[torch.Tensor]]:
    hidden = [golden_input(f"idformer.hidden.{i}", (1, 577, 1024)) for i in range(5)]
    return golden_input("idformer.id_cond", (1, 1280)), hidden


def test_id_encoder(golden_encoder):
    id_cond, hidden = id_inputs()
    close(golden_encoder.patcher.model(id_cond[:, None], hidden), golden("idformer")["out"])


def test_id_encoder_of_nothing(golden_encoder):
    id_cond, hidden = id_inputs()
    out = golden_encoder.patcher.model(
        torch.zeros_like(id_cond)[:, None], [torch.zeros_like(h) for h in hidden]
    )
    close(out, golden("idformer")["uncond"])


def test_id_encoder_of_two_faces(golden_encoder):
    two = golden_input("idformer.id_cond_two", (1, 2, 1280))
    close(golden_encoder.patcher.model(two, id_inputs()[1]), golden("idformer")["two_faces"])


def flux_model():
    """Load the golden FLUX as ComfyUI loads a diffusion model file."""
    state_dict = golden_state_dict(MANIFEST["flux_with_id"]["shapes"])
    model = comfy.sd.load_diffusion_model_state_dict(
        state_dict, model_options={"dtype": torch.float32}
    )
    model.model.current_patcher = model
    return model


def velocity(model) -> torch.Tensor:
    """Run the model once as the sampler does and return FLUX's velocity [1, 16, 12, 16]."""
    comfy.model_management.load_models_gpu([model, *model.get_nested_additional_models()])
    latent = golden_input("flux.latent", (1, 16, 12, 16))
    sigma = torch.tensor([0.6])
    options = dict(model.model_options["transformer_options"])
    options |= {"sigmas": sigma, "cond_or_uncond": [0], "wrappers": model.wrappers}
    denoised = model.model.apply_model(
        latent,
        sigma,
        c_crossattn=golden_input("flux.context", (1, 11, 48)),
        y=golden_input("flux.pooled", (1, 32)),
        guidance=torch.tensor([3.5]),
        transformer_options=options,
    )
    return (latent - denoised) / 0.6


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode():
        return flux_model()


@pytest.fixture(scope="module")
def pulid():
    shapes = MANIFEST["flux_with_id"]["ca_shapes"] | encoder_shapes(64, 96, 128, 576)
    with torch.inference_mode():
        return from_state_dict(golden_state_dict(shapes), "golden")


def test_flux_without_identity(flux):
    close(velocity(flux), golden("flux_with_id")["no_id"])


@pytest.mark.parametrize("weight", [1.0, 0.7, 1.8])
def test_flux_with_identity_through_the_node(flux, pulid, weight):
    tokens = golden_input("flux.id", (1, 16, 96))
    node = PuLIDFluxApplyIdentity.execute(
        flux, pulid, Identity(tokens, torch.zeros_like(tokens)), weight, 0.0, 1.0
    )
    close(velocity(node[0]), golden("flux_with_id")[f"id_weight_{weight}"])
    close(velocity(flux), golden("flux_with_id")["no_id"])
