"""scripts/train.py as a user calls it: the example, the plan, and the manual's commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT
from pulid_pack.nodes.load import PuLIDFluxLoadModel
from pulid_pack.training.checkpoints import all_of
from pulid_pack.training.config import read_config
from real_host import load_file
from standins.models import PULID
from standins.people import astronaut
from standins.small_runs import host_of_the_tests, rows
from standins.text_encoder_pack.encoder import load_clip

EXAMPLES = ROOT / "training" / "examples"
MICRO = EXAMPLES / "micro.toml"
FINETUNE = EXAMPLES / "finetune.toml"
MANUAL = ROOT / "docs" / "training.md"
# each stage brings losses of its own down; alignment costs likeness, as in the paper
LOSSES = {"diffusion": ("diffusion",), "identity": ("id",), "alignment": ("semantic", "layout")}


@pytest.fixture(scope="module")
def script():
    """Return scripts/train.py as a module."""
    return load_file("train_script", ROOT / "scripts" / "train.py")


def load_as_node(folder, name):
    """Return what *Load PuLID Model* makes of a file."""
    folder_paths.add_model_folder_path("pulid", str(folder), is_default=True)
    return PuLIDFluxLoadModel.execute(name)[0]


def test_the_micro_example_trains_all_three_stages(tmp_path):
    """In a process of its own; every loss falls in the stage that it comes with."""
    pytest.importorskip("tensorboard")
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), str(MICRO)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)],
        env={**os.environ, **host_of_the_tests()},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(tmp_path)
    for stage, losses in LOSSES.items():
        own = [row for row in table if row["stage"] == stage]
        quarter = len(own) // 4
        for name in (*losses, "total"):
            values = [float(row[name]) for row in own]
            assert np.mean(values[-quarter:]) < np.mean(values[:quarter]), (stage, name)
    steps = read_config(MICRO).steps
    assert len(table) == steps
    assert len(all_of(tmp_path / "checkpoints")) == 2
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step_00000040.png",
        f"step_{steps:08d}.png",
    ]
    assert {row["weight"] for row in rows(tmp_path, "validation.csv")} == {"0.0", "0.5", "1.0"}
    assert (tmp_path / "metrics.png").is_file() and list((tmp_path / "board").iterdir())
    pulid = load_as_node(tmp_path, "pulid_micro.safetensors")
    assert (pulid.width, len(pulid.layers), pulid.double_layers) == (128, 2, 1)


def test_the_plan_is_printed_and_nothing_loaded(script, capsys):
    """It names the files of a models folder that is not there."""
    assert script.run(script.parse([str(FINETUNE), "--plan"])) == 0
    said = capsys.readouterr().out
    assert "The run's stages on FLUX.1-dev at 512 pixels" in said
    for family in ("FLUX.1-dev", "FLUX.1-schnell", "Chroma", "FLUX.2 klein 4B", "FLUX.2 klein 9B"):
        for side in (512, 768, 1024):
            assert re.search(rf"^{re.escape(family)} +{side} ", said, re.MULTILINE)
    assert "24 GB  48 GB  80 GB" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('base = "drawn"', 'bse = "drawn"', "[model] has no setting 'bse'. Did you mean base?"),
        ('base = "drawn"', "", "[model] lacks the setting 'base', which has no default."),
        ("size = 32", 'size = "32"', "[data] size is '32', expected a whole number."),
        ("size = 32", "size = 40", "[data] size is 40, expected a multiple of 16."),
        ("heads = 1", "heads = 0", "heads is 0, expected a number from 1 to inf."),
        ('"float32"', '"float8"', "precision is 'float8', expected one of bfloat16, float32."),
        ("[data]", "[daten]", "has a table [daten], expected run, model, data"),
        ("gradient_steps = 1", "gradient_steps = 3", "gradient_steps is 3, but the branch has 2"),
        ("id = 1.0", "id = 0.0", "every loss has weight 0. Give one of them a weight."),
        ("weights = [0.5, 1.0]", "weights = 1", "[validation] weights is 1, expected a list."),
        ("[run]", "[run", "is not a TOML file"),
    ],
)
def test_mistakes_in_the_settings_are_named(script, tmp_path, capsys, old, new, said):
    file = tmp_path / "mine.toml"
    file.write_text(MICRO.read_text("utf-8").replace(old, new), encoding="utf-8")
    assert script.run(script.parse([str(file)])) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_not_there(script, tmp_path, capsys):
    assert script.run(script.parse([str(tmp_path / "none.toml")])) == 1
    assert "There is no settings file" in capsys.readouterr().err


def test_ctrl_c_is_heard_and_the_second_ends_at_once(script, capsys):
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(name) for name in names]
    try:
        stop = script.asked_to_stop()
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
    assert "stopping after this step; once more to end at once" in capsys.readouterr().out


def photographs(folder, count):
    """Write pictures of one woman, each cut and lit in another way, and their captions."""
    folder.mkdir()
    for number in range(count):
        left, light = number % 7 * 6, 0.7 + 0.05 * (number % 9)
        pixels = astronaut()[: 400 + number, 20 + left : 440 + left]
        pixels = (pixels * light).clip(0, 255).astype(np.uint8)
        if number % 2:
            pixels = pixels[:, ::-1]
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"a woman in orange, light {number % 3}")
    return folder


@pytest.mark.parametrize("count", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_the_manuals_three_commands_fine_tune_a_released_file(
    script, models, tmp_path, monkeypatch, capsys, count
):
    """prepare, train, load: the shipped example with smaller figures, on stand-in files."""
    pytest.importorskip("onnx2torch")
    monkeypatch.setattr(comfy.sd, "load_clip", lambda **_: load_clip())  # T5-XXL has one size
    photos = photographs(tmp_path / "photos", count)
    text = FINETUNE.read_text("utf-8")
    changes = {
        "../../../models": models.as_posix(),
        "../photos": photos.as_posix(),
        "../output/finetune/cache": (tmp_path / "cache").as_posix(),
        "../output/finetune": (tmp_path / "run").as_posix(),
        'branch = "diffusion_models/flux1-schnell.safetensors"': "",
        '"adamw8bit"': '"adamw"',
        "size = 512": "size = 64\nmin_face = 8\nheld_out = 0.4",
        "steps = 2000": "steps = 1\nbranch_steps = 2",
        "gradient_steps = 2": "gradient_steps = 1",
        "accumulate = 4": "",
        'judge = ""': 'judge = "insightface/models/antelopev2/glintr100.onnx"',
        "people = 8": "people = 2\nweights = [1.0]\nsteps = 1",
        "warmup = 100": "",
        'weight_dtype = "fp8_e4m3fn"': "",
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    file = tmp_path / "finetune.toml"
    file.write_text(text, encoding="utf-8")
    commands = re.findall(
        r"^    python scripts/train.py finetune.toml(.*)$", MANUAL.read_text("utf-8"), re.M
    )
    assert commands == [" --prepare", ""]
    for command in commands:
        assert script.run(script.parse([str(file), *command.split()])) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert f"{count} pictures to train on, 0 left out; {count} looked at and 3 captions" in said
    table = rows(tmp_path / "run")
    assert [row["stage"] for row in table] == ["identity", "alignment"]
    assert all(float(row["gradient"]) > 0 for row in table)
    before = load_as_node((models / PULID).parent, os.path.basename(PULID))
    pulid = load_as_node(tmp_path / "run", "pulid_finetuned.safetensors")
    assert (len(pulid.layers), pulid.double_layers, pulid.width) == (20, 10, before.width)
    for old, new in zip(before.layers, pulid.layers, strict=True):
        assert not torch.equal(old.to_out.weight.float(), new.to_out.weight.float())
        assert torch.allclose(old.to_out.weight.float(), new.to_out.weight.float(), atol=1e-2)
