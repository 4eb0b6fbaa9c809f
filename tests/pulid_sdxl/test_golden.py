"""The authors' numbers for SDXL, at the tolerances that tests/golden/sdxl/README.md states."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy.k_diffusion.sampling import sample_dpmpp_2m
from golden.weights import golden_input, golden_state_dict
from pulid_pack.identity.fusion import FusionOptions, make_identity
from pulid_pack.identity.id_encoder import encode_zeros, load_id_encoder
from pulid_pack.identity.identity import SDXL_V1, SDXL_V1_1, Identity
from pulid_pack.nodes.sdxl import PuLIDSDXLApplyIdentity
from pulid_pack.pulid_sdxl.id_attention import IDAttention, KeysValues, identity_term
from safetensors.torch import load_file
from standins.sdxl import GOLDEN, MANIFEST, TIMESTEP, people, small_pulid_sdxl, small_sdxl

pytestmark = pytest.mark.usefixtures("switches")  # once more with NVIDIA's

TOLERANCE = 1e-4
HALF = 1e-2
MODES = {"off": "none", "v1": "ortho", "v2": "ortho_v2"}


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(str(GOLDEN / f"{name}.safetensors"))


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=tolerance)


def inputs(name: str) -> dict[str, torch.Tensor]:
    return {k: golden_input(k, tuple(v)) for k, v in MANIFEST[name]["inputs"].items()}


# ---- encoders


@pytest.fixture(scope="module")
def encoders():
    with torch.inference_mode():
        return {
            family: load_id_encoder(
                golden_state_dict(MANIFEST[name]["shapes"]), "id_adapter.", name, name, "", family
            )
            for family, name in ((SDXL_V1, "id_encoder_v1"), (SDXL_V1_1, "id_former_v1_1"))
        }


def test_encoder_of_v1(encoders):
    given = inputs("id_encoder_v1")
    hidden = tuple(given[f"idencoder.hidden.{i}"] for i in range(5))
    found = make_identity(encoders[SDXL_V1], given["idencoder.id_cond"], hidden, FusionOptions())
    close(found.id_tokens, golden("id_encoder_v1")["out"])
    close(found.uncond_id_tokens, golden("id_encoder_v1")["uncond"])
    assert found.family == "sdxl-v1"


def test_encoder_of_v1_1(encoders):
    given, expected = inputs("id_former_v1_1"), golden("id_former_v1_1")
    one = tuple(given[f"idformer.hidden.{i}"] for i in range(5))
    two = tuple(torch.cat((h, given[f"idformer.hidden_second.{i}"])) for i, h in enumerate(one))
    encoder = encoders[SDXL_V1_1]
    found = make_identity(encoder, given["idformer.id_cond"], one, FusionOptions())
    close(found.id_tokens, expected["out"])
    close(found.uncond_id_tokens, expected["uncond"])
    both = make_identity(encoder, given["idformer.id_cond_two"][0], two, FusionOptions())
    close(both.id_tokens, expected["two_photos"])
    assert both.uncond_id_tokens is encode_zeros(encoder, one) and both.family == "sdxl-v1.1"


def test_several_photos_of_v1_stand_side_by_side(encoders):
    given = inputs("id_encoder_v1")
    first = [given[f"idencoder.hidden.{i}"] for i in range(5)]
    hidden = tuple(torch.cat((h, h.flip(-1), h.flip(1))) for h in first)
    id_cond = torch.cat([given["idencoder.id_cond"].roll(n, -1) for n in range(3)])
    one_by_one = [
        make_identity(encoders[SDXL_V1], id_cond[n : n + 1], tuple(h[n : n + 1] for h in hidden), o)
        for n in range(3)
        for o in (FusionOptions(),)
    ]
    a, b, c = (i.id_tokens for i in one_by_one)
    zeros = one_by_one[0].uncond_id_tokens
    wanted = {
        "joint": [a, b[:, :5], c[:, :5]],
        "first-five": [a, b[:, :5], c[:, :5]],
        "id_mix": [a, b, c],
    }
    for mode, parts in wanted.items():
        found = make_identity(encoders[SDXL_V1], id_cond, hidden, FusionOptions(mode))
        close(found.id_tokens, torch.cat(parts, 1))
        lengths = [part.shape[1] for part in parts]
        close(found.uncond_id_tokens, torch.cat([zeros[:, :n] for n in lengths], 1))
    mean = make_identity(encoders[SDXL_V1], id_cond, hidden, FusionOptions("mean"))
    close(mean.id_tokens, torch.cat((a, b, c)).mean(0, keepdim=True))


# ---- one layer


def attention(dtype: torch.dtype = torch.float32):
    """Return q, the layer's own attention, and a map for to_out, as the authors' base has them."""
    shapes = {k: tuple(v) for k, v in MANIFEST["id_attention"]["shapes"].items()}
    weights = golden_state_dict(shapes)
    given = inputs("id_attention")
    base = {k[len("attn2.") :]: v.to(dtype) for k, v in weights.items() if k.startswith("attn2.")}

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (2, 64)).transpose(1, 2)

    q = given["attn.hidden"].to(dtype) @ base["to_q.weight"].T
    k, v = (given["attn.context"].to(dtype) @ base[f"to_{n}.weight"].T for n in "kv")
    out = torch.nn.functional.scaled_dot_product_attention(heads(q), heads(k), heads(v))
    layer = IDAttention(128, 96)
    prefix = "id_adapter_attn_layers.1."
    layer.load_state_dict({k[len(prefix) :]: w for k, w in weights.items() if prefix in k})
    return q, out.transpose(1, 2).flatten(2), layer


def token_rows(entry: str) -> tuple[torch.Tensor, int]:
    """Return the ID tokens [2, T, 96] (or [1, 2 T, 96]) of a golden entry, and its times."""
    given = inputs("id_attention")
    tokens, supplementary = given["attn.id_tokens"], given["attn.supp_tokens"]
    kind = entry.split(".")[0]
    if kind == "mix":
        return torch.cat((tokens, supplementary), 1), 1
    if kind == "supp":
        return torch.cat((tokens, supplementary[:, :5]), 1), 1
    if kind == "v1_1":
        return given["attn.id_tokens_32"], 1
    if kind == "cfg1":  # one row that sees the tokens of both, and both rows' zeros
        return tokens.flatten(0, 1)[None], 2
    return tokens, 1


ENTRIES = [k for k in golden("id_attention") if "zero" in k and not k.endswith(".out")]


@pytest.mark.parametrize("entry", ENTRIES)
def test_attention_in_every_mode(entry):
    parts = entry.split(".")
    half = parts[0] == "half"
    mode = next(MODES[p] for p in parts if p in MODES)
    zeros = int(next(p for p in parts if p.startswith("zero"))[4:])
    weight = float(entry.split("weight")[1])
    q, out, layer = attention(torch.float16 if half else torch.float32)
    tokens, times = token_rows(entry)
    q, out, expected = q[-len(tokens) :], out[-len(tokens) :], golden("id_attention")[entry]
    tolerance = HALF if half else TOLERANCE
    reference = layer(q, out, tokens, 2, times * zeros, mode, weight)
    close(reference, expected, tolerance)
    for row, ids in enumerate(tokens):
        made = KeysValues(*((ids @ m.weight.T).to(q) for m in (layer.id_to_k, layer.id_to_v)))
        one = slice(row, row + 1)
        term = identity_term(made, q[one], out[one], 2, times * zeros, mode)
        close(out[one].float() + weight * term, expected[one], tolerance)


def test_a_text_of_zeros_gives_no_nan():
    q, out, layer = attention()
    tokens = token_rows("v2")[0][1]
    made = KeysValues(*((tokens @ m.weight.T) for m in (layer.id_to_k, layer.id_to_v)))
    plain = identity_term(made, q, torch.zeros_like(out), 2, 8, "none")
    for mode in ("ortho", "ortho_v2"):
        assert torch.equal(identity_term(made, q, torch.zeros_like(out), 2, 8, mode), plain)


# ---- the whole UNet, through the node


@pytest.fixture(scope="module")
def sdxl():
    with torch.inference_mode():
        return small_sdxl()


@pytest.fixture(scope="module")
def pulid():
    with torch.inference_mode():
        return small_pulid_sdxl()


def apply(model, pulid, identity, weight, zeros, mode, **more):
    settings = {"num_zero": zeros, "projection": mode, **more}
    node = PuLIDSDXLApplyIdentity.execute(
        model, pulid, identity, "custom", weight, 0.0, 1.0, **settings
    )
    return node[0]


def noise_prediction(model, rows: slice = slice(0, 2), dtype=torch.float32) -> torch.Tensor:
    """Return what the UNet predicts for the golden latent, which it gets as it is."""
    given = {k: v[rows] for k, v in inputs("unet_with_id").items()}
    base = model.model
    step = torch.full((len(given["unet.latent"]),), TIMESTEP)
    sigma = base.model_sampling.sigma(step)
    scale = (sigma**2 + 1).sqrt().view(-1, 1, 1, 1)
    options = dict(model.model_options["transformer_options"])
    options |= {
        "sigmas": sigma,
        "cond_or_uncond": [1, 0] if rows == slice(0, 2) else [0],
        "wrappers": model.wrappers,
    }
    x = given["unet.latent"] * scale  # what calculate_input takes away again
    y = golden("unet_with_id")["y"][rows]
    context = given["unet.context"]
    denoised = base.apply_model(x, sigma, c_crossattn=context, y=y, transformer_options=options)
    return (x - denoised) / sigma.view(-1, 1, 1, 1)


def test_unet_without_identity(sdxl):
    close(noise_prediction(sdxl), golden("unet_with_id")["no_id"])


UNET = {
    "fidelity.weight0.8": (people, 0.8, 8, "ortho_v2"),
    "fidelity.weight1.0": (people, 1.0, 8, "ortho_v2"),
    "extremely_style.weight0.8": (people, 0.8, 16, "ortho"),
    "extremely_style.weight1.0": (people, 1.0, 16, "ortho"),
    "none.zero0.weight0.8": (people, 0.8, 0, "none"),
    "none.zero8.weight1.0": (people, 1.0, 8, "none"),
    "fidelity.id_mix.weight0.8": (lambda: both(10), 0.8, 8, "ortho_v2"),
    "fidelity.supplementary.weight0.8": (lambda: both(5), 0.8, 8, "ortho_v2"),
}


def both(more: int) -> Identity:
    """Return the golden identity with the first ``more`` tokens of a second photo."""
    one, two = people(), people("unet.supp_tokens")
    parts = [(one.id_tokens, two.id_tokens), (one.uncond_id_tokens, two.uncond_id_tokens)]
    return Identity(*(torch.cat((a, b[:, :more]), 1) for a, b in parts), SDXL_V1)


@pytest.mark.parametrize("entry", UNET)
def test_unet_with_identity_through_the_node(sdxl, pulid, entry):
    identity, *settings = UNET[entry]
    patched = apply(sdxl, pulid, identity(), *settings)
    close(noise_prediction(patched), golden("unet_with_id")[entry])


def test_named_methods_are_the_authors(sdxl, pulid):
    for method, entry in (
        ("fidelity", "fidelity.weight0.8"),
        ("style", "extremely_style.weight0.8"),
    ):
        node = PuLIDSDXLApplyIdentity.execute(sdxl, pulid, people(), method, 0.8, 0.0, 1.0)
        close(noise_prediction(node[0]), golden("unet_with_id")[entry])
    node = PuLIDSDXLApplyIdentity.execute(sdxl, pulid, people(), "neutral", 0.8, 0.0, 1.0)
    close(noise_prediction(node[0]), golden("unet_with_id")["none.zero0.weight0.8"])
    close(noise_prediction(sdxl), golden("unet_with_id")["no_id"])


def test_unet_of_one_row(sdxl, pulid):
    patched = apply(sdxl, pulid, people(), 0.8, 8, "ortho_v2")
    found = noise_prediction(patched, slice(1, 2))
    close(found, golden("unet_with_id")["fidelity.prompt_row_alone.weight0.8"])


def test_unet_of_v1_as_its_authors_run_it_at_cfg_1(sdxl, pulid):
    rows = people()
    tokens = torch.cat((rows.uncond_id_tokens, rows.id_tokens), 1)
    patched = apply(sdxl, pulid, Identity(tokens, tokens, SDXL_V1), 0.8, 16, "ortho_v2")
    found = noise_prediction(patched, slice(1, 2))
    close(found, golden("unet_with_id")["fidelity.cfg1.weight0.8"])


def test_unet_with_the_tokens_of_v1_1(sdxl, pulid):
    identity = people("unet.id_tokens_32", 32)  # tokens of either version enter alike
    patched = apply(sdxl, pulid, identity, 0.8, 20, "ortho_v2")
    close(noise_prediction(patched), golden("unet_with_id")["v1_1.zero20.v2.weight0.8"])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 0.15)]
)  # the UNet alone is off by 0.008 and 0.064
def test_in_16_bit_the_numbers_are_the_authors_to_rounding(sdxl, pulid, dtype, tolerance):
    narrow = small_sdxl(dtype, sdxl.model.diffusion_model.state_dict())
    model = apply(narrow, pulid, people(), 0.8, 8, "ortho_v2")
    close(noise_prediction(model), golden("unet_with_id")["fidelity.weight0.8"], tolerance)


# ---- whole sampling runs


def conds() -> tuple[list, list]:
    """Return the prompt and the negative prompt of the golden runs."""
    given = inputs("unet_with_id")
    return tuple(
        [
            [
                given["unet.context"][row : row + 1],
                {"pooled_output": given["unet.pooled"][row : row + 1]},
            ]
        ]
        for row in (1, 0)
    )


def sampled(model, sigmas: torch.Tensor, cfg: float, factor: torch.Tensor, sampler) -> torch.Tensor:
    """Run the host's sampler over these sigmas from noise times ``factor``.

    The host multiplies the first noise with the root of 1 + sigma squared; that is taken away here.
    """
    noise = golden_input("sampling.noise", (1, 4, 16, 24))
    positive, negative = conds()
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sampling = model.get_model_object("model_sampling")
    own = sampling.noise_scaling(sigmas[0], torch.ones(1), torch.zeros(1), True)
    start = noise * factor / own
    return guider.sample(start, torch.zeros_like(noise), sampler, sigmas, seed=0)


SAMPLED = {
    "no_id": None,
    "fidelity.weight0.8": (0.8, 8, "ortho_v2"),
    "extremely_style.weight1.0": (1.0, 16, "ortho"),
}


@pytest.mark.parametrize("entry", SAMPLED)
def test_a_run_of_v1_1(sdxl, pulid, entry):
    expected, sigmas = golden("sampling")[f"v1_1.{entry}"], golden("sampling")["v1_1.sigmas"]
    model = apply(sdxl, pulid, people(), *SAMPLED[entry]) if SAMPLED[entry] else sdxl
    sampler = comfy.samplers.sampler_object("dpmpp_2m")
    found = sampled(model, sigmas, MANIFEST["sampling"]["cfg"]["v1_1"], sigmas[0], sampler)
    close(sdxl.model.process_latent_in(found), expected, 1e-2 * float(expected.abs().max()))


def last_step_of_first_order(model, x, sigmas, extra_args=None, **more):
    """Sample with the host's dpmpp_2m, the last step as the authors' scheduler does it."""
    x = sample_dpmpp_2m(model, x, sigmas[:-1], extra_args, disable=True)
    return sample_dpmpp_2m(model, x, sigmas[-2:], extra_args, disable=True)


@pytest.mark.parametrize("entry", ["no_id", "fidelity.weight0.8"])
def test_a_run_of_v1(sdxl, pulid, entry):
    expected, sigmas = golden("sampling")[f"v1.{entry}"], golden("sampling")["v1.sigmas"]
    model = apply(sdxl, pulid, people(), *SAMPLED[entry]) if SAMPLED[entry] else sdxl
    sampler = comfy.samplers.KSAMPLER(last_step_of_first_order)
    factor, cfg = (1 + sigmas[0] ** 2).sqrt(), MANIFEST["sampling"]["cfg"]["v1"]
    found = sdxl.model.process_latent_in(sampled(model, sigmas, cfg, factor, sampler))
    wanted = expected * (1 + sigmas[-1] ** 2).sqrt()
    close(found, wanted, 1e-3 * float(wanted.abs().max()))
