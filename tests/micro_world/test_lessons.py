"""Drawn people's networks: how they are taught, and that insightface reads what they become."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from insightface.model_zoo import get_model
from pulid_pack.micro_world.codec import fit
from pulid_pack.micro_world.files import read_world, write_manifest, write_networks, write_onnx
from pulid_pack.micro_world.flux import text_of
from pulid_pack.micro_world.lessons import Lesson, learn
from pulid_pack.micro_world.nets import Finder, Recogniser
from pulid_pack.micro_world.people import WORDS, draw_people
from pulid_pack.micro_world.pool import painted
from pulid_pack.micro_world.prompts import tokens_of
from pulid_pack.micro_world.renderer import TOGETHER, photo, render
from pulid_pack.micro_world.school import begin
from pulid_pack.micro_world.world import World


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode: networks are trained here."""


@pytest.mark.parametrize("draw", [render, photo])
def test_a_person_is_drawn_alike_alone_and_among_others(draw):
    people = draw_people(TOGETHER + 1, 3)
    alone = [draw(people[n : n + 1]) for n in range(len(people))]
    assert torch.equal(draw(people), torch.cat(alone))
    assert not torch.equal(alone[0], alone[-1])


def test_the_codec_keeps_a_drawn_face():
    codec = fit(render(draw_people(64, 1)))
    unseen = render(draw_people(16, 2))
    assert codec.encode(unseen).shape == (16, 16, 16, 16)
    error = (painted(codec, unseen) - unseen).square().mean()
    assert -10 * error.log10() > 29  # dB; enlarging from half the size gives 27.6
    once = painted(codec, unseen)
    # what it has left out once, it does not leave out again; clamping apart
    assert (painted(codec, once) - once).abs().mean() < 2e-3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_interrupted_lesson_ends_as_an_undisturbed_one(tmp_path, kind):
    lesson = Lesson("line", 6, 4, 1e-2, warmup=1, kind=kind)

    def run(folder, stop=None):
        net = torch.nn.Linear(3, 2)
        begin(net, torch.Generator().manual_seed(1))
        folder.mkdir(exist_ok=True)

        def loss(step):
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            return (net(x) - x[:, :2]).square().mean()

        return learn(lesson, net, loss, folder, lambda _: None, every=2)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop=5)
    again = run(tmp_path / "stopped")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    with pytest.raises(ValueError, match="was made with other settings"):
        learn(Lesson("line", 7, 4, 1e-2), torch.nn.Linear(3, 2), None, tmp_path / "whole", print)


def random_net(net, seed):
    begin(net, torch.Generator().manual_seed(seed))
    return net.eval()


def test_insightface_reads_the_finder_as_scrfd(tmp_path):
    """Boxes and points that insightface decodes are those that training's finder has."""
    net = random_net(Finder(), 1)
    with torch.no_grad():  # sure of every cell, so that insightface shows all of them
        net.head.bias.zero_()
        net.head.bias[0] = 8.0
        net.head.weight[1:] *= 0.1
        net.head.bias[1:] += 1.5
    write_onnx(net, tmp_path / "det.onnx", 640, 9)
    detector = get_model(str(tmp_path / "det.onnx"), providers=["CPUExecutionProvider"])
    detector.prepare(-1, input_size=(640, 640), det_thresh=0.5, nms_thresh=2.0)
    picture = np.random.default_rng(1).integers(0, 255, (640, 640, 3), np.uint8)
    boxes, points = detector.detect(picture, input_size=(640, 640))
    pixels = (torch.from_numpy(picture[..., ::-1].copy()).float() - 127.5) / 128
    with torch.no_grad():
        _, sides, five = net.cells(net.shrink(pixels.movedim(-1, 0)[None]))
    cells = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(20), indexing="xy"), -1)
    wanted = 32 * (five[0].movedim(0, -1).reshape(20, 20, 5, 2) + cells[:, :, None])
    assert len(points) == 400 and boxes.shape == (400, 5)
    order = np.lexsort((points[:, 0, 0], points[:, 0, 1]))
    expected = wanted.reshape(400, 5, 2).numpy()
    own = np.lexsort((expected[:, 0, 0], expected[:, 0, 1]))
    # float32 sums in another order
    assert np.allclose(points[order], expected[own], atol=2e-2)


def test_insightface_reads_the_recogniser_as_arcface(tmp_path):
    net = random_net(Recogniser(), 2)
    write_onnx(net, tmp_path / "rec.onnx", 112, 1)
    model = get_model(str(tmp_path / "rec.onnx"), providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(2).integers(0, 255, (112, 112, 3), np.uint8)
    found = torch.from_numpy(model.get_feat(picture)[0])
    pixels = torch.from_numpy(picture[..., ::-1].copy()).float().movedim(-1, 0)[None]
    with torch.no_grad():
        wanted = net(pixels / 127.5 - 1)[0]
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


def test_files_bring_a_world_back(tmp_path):
    net = random_net(Recogniser((8, 8, 8, 8), 16), 3)
    codec = fit(render(draw_people(8, 1)))
    networks = {"judge": net.state_dict(), "codec": codec.state_dict()}
    write_manifest(tmp_path, write_networks(networks, tmp_path), {"seed": 1})
    world = read_world(tmp_path)
    assert isinstance(world, World) and torch.equal(world.codec.mean, codec.mean)
    # weights are kept in bfloat16
    wanted = net.head.weight.detach().bfloat16().float()
    assert torch.equal(world.judge.head.weight, wanted)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    sums = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("codec.safetensors", "judge.safetensors")
    }
    assert manifest == {"seed": 1, "sha256": sums}
    with pytest.raises(FileNotFoundError, match=r"python -m micro_world\.train"):
        read_world(tmp_path / "none")


def test_a_prompt_in_words_has_the_tokens_of_its_people():
    people = draw_people(8, 5)
    for number, text in enumerate(people.prompts()):
        assert torch.equal(tokens_of(text), text_of(people[number : number + 1])[0])
    plain = tokens_of("portrait, color")
    assert plain.shape == (len(WORDS), 64)
    pair = tokens_of("a person in a cap, smiling, and a person with sunglasses")
    assert pair.shape == (2 * len(WORDS), 64)
    assert not torch.equal(pair[:7], pair[7:])
