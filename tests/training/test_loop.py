"""The loop: stages and their schedules, what a step computes, validation, and its named errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from pulid_pack.micro_world.people import draw_people
from pulid_pack.micro_world.renderer import boxes, keypoints, photo, render
from pulid_pack.state_dicts import read_metadata
from pulid_pack.training import distributed, loop, recorder, studio
from pulid_pack.training.checkpoints import all_of, load, newest
from pulid_pack.training.config import Stage, from_tables
from pulid_pack.training.dataset import batch
from pulid_pack.training.draws import Order, normals
from pulid_pack.training.folder import own_folder
from pulid_pack.training.objective import Objective, Step, schedules
from pulid_pack.training.optimization import Averaged, clip, rate
from pulid_pack.training.trainable import trainable
from pulid_pack.training.validate import summed
from standins.sdxl import tiny_sdxl
from standins.small_runs import FIRST, SECOND, THIRD, rows, settings, tables, train
from torch.utils._pytree import tree_leaves


def test_the_rate_of_a_stage():
    stage = Stage("one", steps=12, rate=1.0, warmup=2, schedule="cosine")
    rates = [rate(stage, done) for done in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.01 + 0.99 * 0.5)  # halfway along the cosine
    assert rates[-1] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 0.9)) / 2)
    assert [rate(Stage("two", steps=9, rate=0.3), done) for done in (0, 8)] == [0.3, 0.3]


def test_stages_follow_each_other(tmp_path):
    config = settings(tmp_path)
    at = [loop.stage_at(config, step) for step in range(config.steps)]
    assert [(stage.name, done) for stage, done in at] == [
        (name, done) for name in ("diffusion", "identity", "alignment") for done in range(3)
    ]


def test_clipping_keeps_the_direction():
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip(weights, 1.0).item() == 5.0
    assert torch.cat([w.grad for w in weights]).tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert clip(weights, 0.0).item() == pytest.approx(1.0)
    weights[0].grad[0] = math.inf
    assert clip(weights, 1.0).item() == math.inf


def test_averaged_weights():
    with torch.inference_mode(False):
        module = torch.nn.Linear(1, 1, bias=False)
        module.weight.data.fill_(1.0)
        averaged = Averaged(module, 0.5)
        module.weight.data.fill_(3.0)
        averaged.follow(module, 0)  # at first it follows fast: a tenth is kept
        assert averaged.weights["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 3)
        averaged.follow(module, 1000)
        assert averaged.weights["weight"].item() == pytest.approx((2.8 + 3) / 2)
    assert Averaged(module, 0.0).weights == {}


def test_every_slot_draws_for_itself():
    whole = normals((3,), 1, 7, range(4), "noise")
    parts = [normals((3,), 1, 7, [slot], "noise") for slot in range(4)]
    assert torch.equal(whole, torch.cat(parts))
    assert len({row[0].item() for row in whole}) == 4
    for other in (normals((3,), 2, 7, [0], "noise"), normals((3,), 1, 8, [0], "noise")):
        assert not torch.equal(other[0], whole[0])


def objective(config, made):
    """Return an objective with a new adapter; use it inside trainable."""
    adapter = studio.make_adapter(config, made.models, made.pictures)
    adapter.requires_grad_(True)
    for layer in adapter.layers:
        torch.nn.init.normal_(layer.to_out.weight, std=0.05)  # at zero most gradients are zero
    return adapter


def gradients(adapter) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in adapter.parameters()]
    for parameter in adapter.parameters():
        parameter.grad = None
    return found


def test_losses_taken_one_by_one_have_the_gradient_of_their_sum(tmp_path, drawn_people):
    """Accumulated over two halves, too; and weights of the losses weigh."""
    both = {**THIRD, "steps": 1, "diffusion": 0.5, "id": 2.0}
    config = settings(tmp_path, [both])
    stage, pictures = config.stages[0], drawn_people.pictures
    with torch.inference_mode(False), trainable(drawn_people.models.base, torch.float32) as base:
        adapter = objective(config, drawn_people)
        own = Objective(
            config,
            drawn_people.models,
            adapter,
            base,
            base,
            distributed.Group(),
            schedules(config, base),
        )
        order = Order(len(pictures.train), 1)

        def taken(slots, stage, share=1.0):
            part = batch(pictures, order, 0, slots, 2)
            return own(part, Step(1, 0, slots), stage, share)

        losses = taken([0, 1], stage)
        wanted = gradients(adapter)
        one = [taken([slot], stage, 0.5) for slot in (0, 1)]
        for mine, theirs in zip(gradients(adapter), wanted, strict=True):
            # rounding is of the size of a weight's largest gradient
            rounding = 1e-5 * float(theirs.abs().max())
            assert torch.allclose(mine, theirs, atol=rounding, rtol=1e-3)
        for name, value in losses.items():
            assert value.item() == pytest.approx(sum(o[name].item() for o in one) / 2, rel=1e-4)
        total = 0.5 * losses["diffusion"] + 2 * losses["id"] + losses["semantic"] + losses["layout"]
        assert losses["total"].item() == pytest.approx(total.item(), rel=1e-5)
        alone = replace(stage, id=0.0, semantic=0.0, layout=0.0)
        assert set(taken([0, 1], alone)) == {"diffusion", "total"}
        half = gradients(adapter)
        taken([0, 1], replace(alone, diffusion=1.0))
        for mine, theirs in zip(gradients(adapter), half, strict=True):
            rounding = 1e-6 * float(theirs.abs().max())
            assert torch.allclose(mine, 2 * theirs, atol=rounding, rtol=1e-4)


def test_the_naive_loss_comes_from_the_one_step_estimate(tmp_path, drawn_people):
    """Here x − σ·v, which the test computes with the model's own forward."""
    naive = {**FIRST, "steps": 1, "diffusion": 0.0, "id": 1.0, "id_on": "estimate"}
    config = settings(tmp_path, [naive])
    made, pictures = drawn_people, drawn_people.pictures
    with torch.inference_mode(False), trainable(made.models.base, torch.float32) as base:
        adapter = objective(config, made)
        seen = []

        def recognise(shown):
            seen.append(shown.detach())
            return made.models.recognise(shown)

        models = replace(made.models, recognise=recognise)
        own = Objective(config, models, adapter, base, base, distributed.Group(), {})
        part = batch(pictures, Order(len(pictures.train), 1), 0, [0], 1)
        found = own(part, Step(1, 0, [0]), config.stages[0], 1.0)
        assert {"id", "faces", "total", "diffusion"} == set(found) and len(seen) == 1
        assert found["total"].item() == found["id"].item()
        photos = part.stack("vector")
        vectors = made.models.recognise(seen[0])[0]
        cosine = torch.nn.functional.cosine_similarity(photos, vectors)
        assert found["id"].item() == pytest.approx(1 - cosine.item(), abs=1e-5)
        assert gradients(adapter)[0].abs().sum() > 0


@pytest.fixture(scope="module")
def done(tmp_path_factory, drawn_people):
    """Return the folder of a small run through all stages, and what of it was in which state."""
    folder = tmp_path_factory.mktemp("run")
    train(settings(folder, checkpoint_every=4, keep=2), drawn_people)
    return folder


def test_a_run_writes_what_it_did(done):
    table = rows(done)
    assert [row["step"] for row in table] == [str(step) for step in range(1, 10)]
    assert [row["stage"] for row in table] == ["diffusion"] * 3 + ["identity"] * 3 + [
        "alignment"
    ] * 3
    assert [float(row["rate"]) for row in table[:3]] == [0.0005, 0.001, 0.001]
    for row in table:
        branch = row["stage"] != "diffusion"
        assert [bool(row[c]) for c in ("id", "faces")] == [branch] * 2
        assert bool(row["layout"]) == (row["stage"] == "alignment")
        assert float(row["gradient"]) > 0
    looked = rows(done, "validation.csv")
    assert [(row["step"], row["weight"]) for row in looked] == [("9", "0.0"), ("9", "1.0")]
    assert float(looked[0]["change"]) == 0.0 and float(looked[1]["change"]) > 0.0
    with Image.open(done / "samples" / "step_00000009.png") as sheet:
        assert sheet.size == (3 * 192, 18 + 192)
    assert (done / "metrics.png").stat().st_size > 5000


def test_checkpoints_are_kept_and_the_exported_file_has_the_averaged_weights(done):
    kept = all_of(done / "checkpoints")
    assert [path.stem for path in kept] == ["step_00000008", "step_00000009"]
    found = load(newest(done / "checkpoints"), settings(done).digest())
    assert (found.step, found.position) == (9, 18)
    from safetensors.torch import load_file

    exported = load_file(done / "small.safetensors")
    assert set(exported) == set(found.averaged) == set(found.weights)
    for name, value in exported.items():
        assert torch.equal(value, found.averaged[name])
    assert any(not torch.equal(found.weights[n], exported[n]) for n in exported)


def test_a_folder_with_a_run_is_not_written_over(done, drawn_people):
    with pytest.raises(RuntimeError, match=r"holds a run already\. Go on with it by --resume"):
        train(settings(done), drawn_people)
    said = "Another run is writing to"
    with own_folder(done), pytest.raises(RuntimeError, match=said), own_folder(done):
        pass


def test_other_settings_do_not_go_on_with_a_run(done, drawn_people):
    other = settings(done, [{**FIRST, "rate": 1.0}])
    with pytest.raises(ValueError, match="was made with other settings than those given"):
        train(other, drawn_people, resume=True)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in .*Start the run"):
        train(settings(done / "empty"), drawn_people, resume=True)


def test_a_stop_saves(tmp_path, drawn_people):
    config = settings(tmp_path, [{**FIRST, "steps": 5}])
    with pytest.raises(loop.Interrupted, match="stopped after step 1 of 5"):
        train(config, drawn_people, stop=lambda: True)
    assert [path.name for path in all_of(tmp_path / "checkpoints")] == ["step_00000001.safetensors"]
    train(config, drawn_people, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5"]


def test_a_loss_that_is_no_number_stops_the_run_by_name(tmp_path, drawn_people):
    def broken(pictures):
        vectors, found = drawn_people.models.recognise(pictures)
        return vectors / 0.0, found

    models = replace(drawn_people.models, recognise=broken)
    config = settings(tmp_path, [SECOND], checkpoint_every=1)
    with pytest.raises(RuntimeError, match=r"Step 1, stage identity: the loss 'total' is nan, not"):
        train(config, replace(drawn_people, models=models))
    assert all_of(tmp_path / "checkpoints") == []  # nothing damaged is saved


def test_pictures_without_faces_stop_the_run_by_name(tmp_path, drawn_people, monkeypatch):
    monkeypatch.setattr(recorder, "FACELESS", 4)

    def blind(pictures):
        vectors, found = drawn_people.models.recognise(pictures)
        return vectors, found * 0

    models = replace(drawn_people.models, recognise=blind)
    with pytest.raises(RuntimeError, match="no face was found in the last 4 pictures of the br"):
        train(settings(tmp_path, [SECOND]), replace(drawn_people, models=models))
    assert [row["faces"] for row in rows(tmp_path)] == ["0.0", "0.0"]


def test_sdxl_trains_by_the_same_loop(tmp_path, drawn_people):
    """The paper's own family: noise prediction, alignment on queries, a file of v1.1's layout."""
    with torch.inference_mode(False):
        base = tiny_sdxl()
    pooled = base.model.adm_channels - 6 * 256

    def sample(index):
        one = drawn_people.pictures.sample(index)
        latent = normals((4, 8, 8), 1, index, [0], "latent")[0]
        return replace(one, latent=latent, text=one.text[:, :64], pooled=torch.ones(pooled))

    def decode(_, latent):
        return torch.nn.functional.interpolate(latent[:, :3], scale_factor=4) + 0.5

    models = replace(drawn_people.models, base=base, branch=base, decode=decode)
    pictures = replace(drawn_people.pictures, sample=sample)
    config = settings(tmp_path, [{**stage, "steps": 1} for stage in (FIRST, SECOND, THIRD)])
    file = train(config, replace(drawn_people, models=models, pictures=pictures))
    table = rows(tmp_path)
    assert [row["stage"] for row in table] == ["diffusion", "identity", "alignment"]
    assert all(float(row["gradient"]) > 0 for row in table) and table[2]["semantic"]
    assert read_metadata(file)["family"] == "sdxl-v1.1"


def test_leakage_of_light_is_a_correlation():
    """Four people: what the identity adds follows the photo's light, or goes against it."""

    def looked(lit):
        people = zip([1.0, 2.0, 3.0, 4.0], lit, strict=True)
        numbers = [{"change": [0, 1], "lit": [0, x], "photo": [p, p]} for p, x in people]
        return summed([0.0, 1.0], numbers)

    assert looked([0.1, 0.2, 0.3, 0.4])[1].light == pytest.approx(1.0)
    assert looked([0.4, 0.3, 0.2, 0.1])[1].light == pytest.approx(-1.0)
    assert looked([0.1, 0.3, 0.3, 0.1])[1].light == pytest.approx(0.0)
    assert looked([0.1] * 4)[0].light is None and looked([0.1] * 4)[1].change == 1.0


@pytest.mark.parametrize(("kind", "dtype"), [("adamw8bit", torch.uint8), ("muon", torch.float32)])
def test_another_optimizer_goes_on_where_it_stopped(tmp_path, drawn_people, kind, dtype):
    if kind == "adamw8bit":
        pytest.importorskip("bitsandbytes")

    def settings(name):
        own = tables(tmp_path / name, [{**SECOND, "steps": 4}], checkpoint_every=10)
        return from_tables({**own, "optimizer": {"kind": kind}}, tmp_path, "the test")

    train(settings("whole"), drawn_people)
    with pytest.raises(loop.Interrupted):
        train(settings("stopped"), drawn_people, stop=lambda: True)
    config = settings("stopped")
    saved = load(newest(config.folder / "checkpoints"), config.digest())
    kept = [value for value in tree_leaves(saved.optimizer) if isinstance(value, torch.Tensor)]
    assert dtype in {value.dtype for value in kept}
    train(config, drawn_people, resume=True)
    losses = [[row["total"] for row in rows(tmp_path / name)] for name in ("whole", "stopped")]
    assert losses[0] == losses[1] and len(set(losses[0])) == 4


def test_drawn_people_are_the_same_alone_and_in_a_crowd():
    crowd = draw_people(5, 3)
    whole = render(crowd, 24)
    assert torch.equal(whole[3:], render(draw_people(5, 3)[3:], 24))
    assert torch.equal(draw_people(8, 3).identity[:5], crowd.identity)
    assert whole.shape == (5, 3, 24, 24) and whole.min() >= 0 and whole.max() <= 1
    assert (photo(crowd, 24)[:, :, :, :2] == 1.0).all()  # on white
    points, heads = keypoints(crowd, 24), boxes(crowd, 24)
    inside = (points >= heads[:, None, :2]) & (points <= heads[:, None, 2:])
    assert inside.all()
    assert (points[:, 0, 0] < points[:, 1, 0]).all() and (points[:, 3:, 1] > points[:, :2, 1]).all()


def test_a_persons_numbers_change_the_face_and_the_prompts_words_the_scene():
    people = draw_people(1, 3)
    skin = replace(people, identity=people.identity.clone())
    skin.identity[:, 0] = 1 - skin.identity[:, 0]
    ground = replace(people, words=people.words.clone())
    ground.words[:, 0] = (ground.words[:, 0] + 1) % 6
    plain = render(people, 32)
    left, top, right, bottom = (int(v) for v in boxes(people, 32)[0])
    changed = (render(skin, 32) - plain).abs().amax((0, 1)) > 0.02
    assert changed[top:bottom, left:right].any() and not changed[:, 0].any()
    changed = (render(ground, 32) - plain).abs().amax((0, 1)) > 0.02
    middle = ((top + bottom) // 2, (left + right) // 2)
    assert changed[0].all() and not changed[middle]
