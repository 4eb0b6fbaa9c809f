"""The pack on an NVIDIA card with ComfyUI's defaults, without the card.

Every node that touches the device runs on the virtual card (bench/virtual_card.py) at the models'
true width: a tensor on the wrong device, a weight read where it does not lie, or a value read back
inside a forward is an error here as there. Blocks are fewer than the models have, except in the
long form (``--long``).
"""

from __future__ import annotations

import pytest
import torch
from pulid_pack.encoders.eva_clip import encode_pixels, load_eva_clip
from pulid_pack.identity.files import load_identity, save_identity
from pulid_pack.identity.fusion import FusionOptions, make_identity
from pulid_pack.identity.identity import Identity
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.pulid_flux.checkpoint import load_pulid
from standins.eva import write_eva_clip
from standins.pulid import write_pulid

from bench import true_size
from bench.cost import Cost, measured
from bench.true_size import (
    HEADS,
    ID_TOKENS,
    TOKEN_WIDTH,
    WIDTH,
    Picture,
    depths_of,
    forward,
    prepare,
    true_model,
    true_pulid,
    with_identity,
)
from bench.virtual_card import GIB, can_be_dynamic, virtual_card

pytestmark = pytest.mark.own_switches

CARD = torch.device("cuda", 0)
SECOND = torch.device("cuda", 1)
FEW = (2, 2)  # double and single blocks; the first of each takes identity
SMALL = Picture(512, 512)


@pytest.fixture(autouse=True)
def inference_mode():
    """Keep real tensors outside of inference mode: torch takes inference tensors for constants."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@pytest.fixture(scope="module")
def depths(request):
    """Return how many double and single blocks the models have."""
    return true_size.DEPTHS if request.config.getoption("--long") else FEW


@pytest.fixture(scope="module", params=["dynamic VRAM", "without"])
def card(request):
    """Put a card in place, with and without ComfyUI's dynamic VRAM."""
    dynamic = request.param == "dynamic VRAM"
    if dynamic and not can_be_dynamic():
        pytest.skip("this ComfyUI has no dynamic VRAM")
    with virtual_card(40 * GIB, dynamic=dynamic) as card:
        card.dynamic = dynamic
        yield card


@pytest.fixture(scope="module")
def pulid(card):
    """Return the true-size PuLID model."""
    with card.running():
        return true_pulid()


@pytest.fixture(scope="module")
def flux(card, depths):
    """Return a FLUX.1-dev in bfloat16."""
    with card.running():
        return true_model(depths=depths)


def added_work(model, picture: Picture, without) -> float:
    """Return the FLOPs that ``model`` spends beyond ``without`` in a forward.

    In units of one identity of 32 folded tokens on all image tokens of one row. The result has to
    have the latent's shape and to lie on the model's device.
    """
    prepare(without, picture)
    plain = measured(lambda: forward(without, picture))
    prepare(model, picture)
    return (forward_cost(model, picture).flops - plain.flops) / one_identity(model, picture)


def forward_cost(model, picture: Picture) -> Cost:
    """Run a prepared forward and return its cost, its result checked."""
    made = []
    cost = measured(lambda: made.append(forward(model, picture)))
    (out,) = made
    assert list(out.shape) == picture.shape
    assert out.device == model.load_device
    assert out.dtype == torch.float32
    return cost


def one_identity(model, picture: Picture) -> int:
    """Return the FLOPs of both matrix products of one folded identity in all blocks of one row."""
    depths = depths_of(model)
    blocks = len(range(0, depths[0], 2)) + len(range(0, depths[1], 4))
    tokens = (picture.height // 16) * (picture.width // 16)
    return blocks * 2 * 2 * tokens * WIDTH * HEADS * ID_TOKENS


class TestLoaders:
    def test_a_pulid_file_loads_and_encodes(self, card, tmp_path):
        """Under dynamic VRAM ComfyUI's layers have no weight before their file is read."""
        write_pulid(tmp_path / "pulid.safetensors", vit_width=128, id_cond_width=576)
        pulid = load_pulid(tmp_path / "pulid.safetensors")
        patcher = pulid.id_encoder.patcher
        assert patcher.is_dynamic() == card.dynamic
        assert patcher.load_device == CARD
        with card.running():
            hidden = tuple(torch.empty(2, 17, 128) for _ in range(5))
            identity = make_identity(
                pulid.id_encoder, torch.empty(2, 576), hidden, FusionOptions("mean")
            )
        for tokens in (identity.id_tokens, identity.uncond_id_tokens):
            assert (tokens.shape, tokens.dtype) == ((1, 32, 96), torch.float32)
            assert tokens.device.type == "cpu"

    def test_the_true_id_encoder_encodes_eight_photos(self, card, pulid):
        with card.running():
            hidden = tuple(torch.empty(8, 577, 1024) for _ in range(5))
            identity = make_identity(
                pulid.id_encoder, torch.empty(8, 1280), hidden, FusionOptions()
            )
        assert identity.id_tokens.shape == (1, 32, TOKEN_WIDTH)

    def test_eva_clip_loads_in_float16_and_encodes(self, card, tmp_path):
        eva = load_eva_clip(write_eva_clip(tmp_path))
        assert eva.patcher.load_device == CARD
        assert eva.patcher.model.head.weight.dtype == torch.float16
        with card.running():
            pooled, hidden = encode_pixels(eva, torch.empty(2, 3, 56, 56))
        assert pooled.shape == (2, 64)
        assert [h.shape for h in hidden] == [(2, 17, 128)] * 5
        assert all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (pooled, *hidden))

    def test_an_identity_is_saved_loaded_and_with_identity(self, card, flux, pulid, tmp_path):
        tokens = [torch.full((1, 32, TOKEN_WIDTH), v) for v in (0.25, 0.5)]
        save_identity(Identity(*tokens), tmp_path / "x.safetensors")
        identity, _ = load_identity(tmp_path / "x.safetensors")
        assert torch.equal(identity.id_tokens, tokens[0])
        assert torch.equal(identity.uncond_id_tokens, tokens[1])
        with card.running():
            assert (
                added_work(
                    PuLIDFluxApplyIdentity.execute(flux, pulid, identity, 1.0, 0.0, 1.0).args[0],
                    SMALL,
                    flux,
                )
                == 1
            )


class TestForward:
    """added_work returns the added FLOPs in units of one folded identity's."""

    @pytest.mark.parametrize("rows", [(0,), (1, 0)], ids=["cfg 1", "cfg 3"])
    def test_one_identity(self, card, flux, pulid, rows):
        with card.running():
            model = with_identity(flux, pulid)
            picture = Picture(512, 512, rows)
            assert added_work(model, picture, flux) == len(rows)

    def test_no_identity_for_the_negative_prompt(self, card, flux, pulid):
        with card.running():
            model = with_identity(flux, pulid, unconditional="none")
            assert added_work(model, Picture(512, 512, (1, 0)), flux) == 1

    def test_two_identities_one_with_a_mask(self, card, flux, pulid):
        with card.running():
            model = with_identity(with_identity(flux, pulid), pulid, mask=0.5)
            assert added_work(model, SMALL, flux) == 2

    def test_kontext_gives_the_reference_none(self, card, flux, pulid):
        with card.running():
            picture = Picture(512, 512, references=1)
            assert added_work(with_identity(flux, pulid), picture, flux) == 1

    @pytest.mark.parametrize("name", ["FLUX.1-schnell", "Chroma"])
    def test_other_models(self, card, pulid, depths, name):
        with card.running():
            model = true_model(name, depths=depths)
            assert added_work(with_identity(model, pulid), SMALL, model) == 1

    @pytest.mark.parametrize(
        ("stored", "computed"),
        [
            (torch.float16, torch.float16),
            (torch.float8_e4m3fn, torch.bfloat16),
        ],
        ids=["float16", "float8"],
    )
    def test_other_dtypes(self, card, pulid, depths, stored, computed):
        with card.running():
            model = true_model(depths=depths, dtype=stored)
            if computed == torch.float16:
                model.set_model_compute_dtype(computed)
            patched = with_identity(model, pulid)
            assert added_work(patched, SMALL, model) == 1
            for extra in patched.get_nested_additional_models():
                assert {p.dtype for p in extra.model.parameters()} == {computed}

    def test_the_layers_follow_the_models_own_device(self, card, pulid, depths):
        with card.running():
            model = true_model(depths=depths)
            model.load_device = SECOND  # as ComfyUI-MultiGPU does, on every version
            patched = with_identity(model, pulid)
            extras = patched.get_nested_additional_models()
            assert extras
            assert {extra.load_device for extra in extras} == {SECOND}
            assert added_work(patched, SMALL, model) == 1


def test_layers_that_do_not_fit_are_brought_one_by_one():
    """Without dynamic VRAM ComfyUI loads a model in part and casts the rest as it is used."""
    with virtual_card(2 * GIB) as card, card.running():
        model, pulid = true_model(depths=(3, 5)), true_pulid()
        patched = with_identity(model, pulid)
        extras = prepare(patched, SMALL)
        for extra in extras:  # as when another model needs the room
            extra.partially_unload(torch.device("cpu"), extra.model_size() // 2)
            assert 0 < extra.loaded_size() < extra.model_size()
        assert patched.loaded_size() < patched.model_size()
        cost = forward_cost(patched, SMALL)
        prepare(model, SMALL)
        added = cost.flops - measured(lambda: forward(model, SMALL)).flops
        assert added == one_identity(model, SMALL)


@pytest.mark.skipif(not can_be_dynamic(), reason="this ComfyUI has no dynamic VRAM")
def test_layers_leave_dynamic_vram_with_their_model():
    """TorchCompileModel and LoRA hooks clone the model out of it: dynamic layers cannot compile."""
    with virtual_card(40 * GIB, dynamic=True) as card, card.running():
        model, pulid = true_model(depths=FEW), true_pulid()
        model.cached_patcher_init = (true_model, ("FLUX.1-dev", torch.bfloat16, FEW))
        patched = with_identity(model, pulid)
        for extra in patched.get_nested_additional_models():
            assert extra.is_dynamic()
            copy, given = extra.cached_patcher_init
            assert copy(*given).is_dynamic()  # as for a further GPU
        plain = patched.clone(disable_dynamic=True)
        again = with_identity(plain, pulid)  # and what is applied afterwards
        for one in (plain, plain.clone(), again):
            extras = one.get_nested_additional_models()
            assert extras and not any(extra.is_dynamic() for extra in (one, *extras))
        assert added_work(plain, SMALL, model.clone(disable_dynamic=True)) == 1


def test_everything_is_put_back():
    import comfy.model_management as mm
    import comfy.model_patcher

    watched = [
        (torch.utils, "swap_tensors"),
        (torch.cuda, "get_device_properties"),
        (mm, "get_torch_device"),
        (mm, "get_free_memory"),
        (mm, "vram_state"),
        (mm, "cpu_state"),
        (comfy.model_patcher, "CoreModelPatcher"),
    ]
    before = [getattr(module, name) for module, name in watched]
    loaded = list(mm.current_loaded_models)
    with (
        pytest.raises(KeyError),
        virtual_card(dynamic=can_be_dynamic()) as card,
    ):
        assert mm.get_torch_device() == card.device == CARD
        raise KeyError
    assert [getattr(module, name) for module, name in watched] == before
    assert mm.current_loaded_models == loaded
