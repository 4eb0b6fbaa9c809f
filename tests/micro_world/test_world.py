"""The drawn world as a whole, with untrained networks: that its parts fit, and what is measured."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.sd
import pytest
import torch
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.faces import detect_faces, load_face_analysis
from pulid_pack.micro_world import apprentice, comparing, recipes
from pulid_pack.micro_world.apprentice import Apprentice
from pulid_pack.micro_world.codec import fit
from pulid_pack.micro_world.comparing import at_likeness, compare, paired, table
from pulid_pack.micro_world.files import write_adapter, write_networks
from pulid_pack.micro_world.flux import random_flux
from pulid_pack.micro_world.held_out import HeldOut
from pulid_pack.micro_world.judging import heads, words_read
from pulid_pack.micro_world.nets import Finder, Recogniser, WordReader
from pulid_pack.micro_world.people import WORDS, draw_people
from pulid_pack.micro_world.renderer import render
from pulid_pack.micro_world.school import begin, empty_tower
from pulid_pack.micro_world.world import World
from pulid_pack.pulid_flux.checkpoint import load_pulid
from pulid_pack.training import adapter_files
from safetensors.torch import load_file
from standins.drawn import write_drawn_models
from standins.models import EVA_CLIP, FACE_PACK, FLUX, PARSING, PULID


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode: adapters are trained here."""


@pytest.fixture(scope="module")
def world() -> World:
    """Return a world of untrained networks whose finder sees a face everywhere."""
    nets = {"finder": Finder(), "recogniser": Recogniser(), "judge": Recogniser(out=96)}
    nets |= {"reader": WordReader(), "tower": empty_tower()}
    for seed, net in enumerate(nets.values()):
        begin(net, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        nets["finder"].head.weight.mul_(0.05)
        box, five = [3.0] * 4, [-1.0, -1.0, 1.0, -1.0, 0.0, 0.0, -0.8, 1.0, 0.8, 1.0]
        nets["finder"].head.bias.copy_(torch.tensor([5.0, *box, *five]))
    networks = {name: net.state_dict() for name, net in nets.items()}
    with torch.inference_mode(False):
        codec = fit(render(draw_people(32, 1)))
        return World({**networks, "base": random_flux(), "codec": codec.state_dict()})


@pytest.fixture(scope="module")
def short(world, tmp_path_factory):
    """Return the ablation's figures of two steps a variant and three people."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(False):
        few = {"steps": 2, "batch": 2, "warmup": 0, "branch_steps": 2, "gradient_steps": 1}
        own = {
            name: (start, [one | few for one in stages])
            for name, (start, stages) in recipes.VARIANTS.items()
        }
        for module in (recipes, apprentice):
            patch.setattr(module, "VARIANTS", own)
        patch.setattr(apprentice, "PEOPLE", 4)
        patch.setattr(apprentice, "VALIDATED", 2)
        patch.setattr(comparing, "WEIGHTS", (0.5, 1.0))
        patch.setattr(comparing, "ROWS", 2)
        said: list[str] = []
        folder = tmp_path_factory.mktemp("ablation")
        found = compare(world, folder, [1], 3, said.append)
        file = Apprentice(world, folder, 1, said.append).train(recipes.SHIPPED)
        grid = comparing.grid(world, folder, 1, said.append, file)
        yield SimpleNamespace(found=found, grid=grid, said=said, file=file)


def test_the_ablation_trains_each_variant_once_and_judges_it_at_every_weight(short):
    trained = [line for line in short.said if "training" in line]
    assert len(trained) == len(recipes.VARIANTS)  # once, also those that others go on from
    # for the ablation, and for what ships
    assert sum("drawing" in line for line in short.said) == 2
    for variant in recipes.ABLATION:
        own = short.found["variants"][variant]["1"]
        assert list(own["weights"]) == ["0.5", "1"] and len(own["each"]["likeness"]) == 3
    text = table(short.found)
    assert all(f"| {variant} | 1 |" in text for variant in recipes.ABLATION)
    assert short.found["floor"]["outside"] == 0.0
    assert short.grid.width > 8 * 192  # photo, without, five variants, what ships


def test_the_real_loaders_take_the_drawn_models(world, short, tmp_path):
    write_networks(world.networks, tmp_path / "networks")
    adapter = write_adapter(short.file, tmp_path / "networks")  # beside them, and none of them
    models = write_drawn_models(tmp_path / "models", adapter, tmp_path / "networks")
    assert load_eva_clip(models / EVA_CLIP).image_size == 56
    faces = load_face_analysis(models / FACE_PACK, "auto", models / PARSING)
    assert detect_faces(faces, (255 * torch.rand(64, 64, 3)).byte().numpy())
    flux = comfy.sd.load_diffusion_model(str(models / FLUX)).model.diffusion_model
    assert (len(flux.double_blocks), len(flux.single_blocks)) == (3, 3)
    assert load_pulid(models / PULID).double_layers == 2
    assert {v.dtype for v in load_file(adapter).values()} == {torch.bfloat16}


def test_the_manifest_says_how_good_an_adapter_is(world, short):
    adapter = adapter_files.load(short.file)
    with torch.inference_mode(False):
        found = HeldOut(world, 3).summary(adapter)
    assert found["without identity"]["outside"] == 0.0 < found["at weight 1"]["outside"]
    assert -1 <= found["two drawings of one person"] <= 1


def test_paired_errors_and_the_weight_of_equal_likeness():
    each = {"better": [0.3, 0.5, 0.4], "worse": [0.1, 0.2, 0.3]}
    variants = {name: {"1": {"each": {"likeness": v}}} for name, v in each.items()}
    (line,) = paired({"seeds": [1], "variants": variants}, "better", "worse")
    # gaps 0.2, 0.3, 0.1: mean 0.2, deviation 0.1, error 0.1 / √3
    assert line == "seed 1: +0.200 ± 0.058 (3.5 errors)"
    rows = {"0.5": {"likeness": 0.2, "words": 0.9}, "1": {"likeness": 0.4, "words": 0.7}}
    assert at_likeness(rows, 0.3, "words") == pytest.approx(0.8)
    assert at_likeness(rows, 0.5, "words") != at_likeness(rows, 0.5, "words")  # not a number


def test_only_said_words_count():
    people = draw_people(1, 1)
    people.said[:] = False
    people.said[0, :2] = True
    logits = [torch.zeros(1, len(line)) for line in WORDS.values()]
    logits[0][0, people.words[0, 0]] = 1.0  # right
    logits[1][0, (people.words[0, 1] + 1) % len(WORDS["pattern"])] = 1.0  # wrong
    reader = SimpleNamespace(lines=lambda _: logits)
    assert words_read(SimpleNamespace(reader=reader), torch.zeros(1, 3, 64, 64), people) == 0.5


def test_a_head_is_around_its_points_and_nowhere_without_a_face():
    points = torch.tensor([[[30.0, 30.0], [34.0, 30.0], [32.0, 32.0], [30.0, 34.0], [34.0, 34.0]]])
    found = torch.tensor([1.0, 0.0])
    finder = SimpleNamespace(find=lambda _: (points.repeat(2, 1, 1), found))
    inside = heads(finder, torch.zeros(2, 3, 64, 64))
    # 1.6 times 4 pixels to each side of (32, 32): pixels 26 to 37
    assert inside[0].sum() == 12**2 and inside[0, 26:38, 26:38].all() and not inside[1].any()
