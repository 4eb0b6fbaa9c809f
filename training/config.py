"""What a training run is told: a TOML file becomes frozen dataclasses.

Every setting has a default but those that nobody can guess. Paths are relative to the file.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .tables import choice, number, read_table

DRAWN = "drawn"  # in place of a file or folder: what micro_world makes
TABLES = ("run", "model", "data", "adapter", "optimizer", "validation")


@dataclass(frozen=True)
class Run:
    """Where a run writes, and how often."""

    folder: str
    seed: int = number(1, 0, 2**31)
    precision: str = choice("bfloat16", "float32")  # of the forwards; weights stay float32
    log_every: int = number(10, 1)  # steps between rows of metrics.csv read back from the device
    checkpoint_every: int = number(500, 1)
    keep: int = number(2, 1)  # checkpoints
    tensorboard: bool = False
    deterministic: bool = False  # torch's own switch: slower on a GPU, resumes to the last bit


@dataclass(frozen=True)
class Model:
    """The frozen models: files below ``models``, in ComfyUI's folders."""

    base: str  # diffusion_models/flux1-dev.safetensors, or "drawn"
    models: str = "."  # ComfyUI's models folder
    weight_dtype: str = choice("default", "fp8_e4m3fn")
    branch: str = ""  # a few-step model of the same layout for the branch (schnell); "": the base
    branch_lora: str = ""  # or a LoRA that makes the base one
    branch_lora_strength: float = 1.0
    vae: str = "vae/ae.safetensors"
    text_encoders: tuple[str, ...] = (
        "text_encoders/t5xxl_fp16.safetensors",
        "text_encoders/clip_l.safetensors",
    )
    clip_type: str = "flux"  # as in Load CLIP: flux, chroma, flux2
    eva_clip: str = "eva_clip/EVA02_CLIP_L_336_psz14_s6B.pt"
    face_pack: str = "insightface/models/antelopev2"
    parsing: str = "facexlib/parsing_bisenet.pth"
    recogniser: str = "insightface/models/antelopev2/glintr100.onnx"  # the loss's
    judge: str = ""  # another recogniser, which validation measures with; "": no likeness measured
    guidance: float = number(1.0, 0.0)  # FLUX.1-dev's distilled guidance while training


@dataclass(frozen=True)
class Data:
    """The pictures, and what is made of them once."""

    source: str  # a folder, a .jsonl file, a folder of .tar shards, or "drawn"
    cache: str = "cache"
    size: int = number(512, 16, 4096)  # pixels of a training picture's side, a multiple of 16
    held_out: float = number(0.02, 0.0, 0.9)  # share of the people that are never trained on
    min_side: int = number(256, 1)  # a smaller picture is thrown out
    min_face: int = number(64, 1)  # pixels of the face's shorter side in the training picture
    several_faces: str = choice("skip", "largest")
    caption: str = ""  # for pictures without one; "": they are thrown out
    people: int = number(512, 2)  # of drawn ones


@dataclass(frozen=True)
class AdapterSettings:
    """The file that comes out; sizes are read from ``start`` where that is given."""

    name: str = "pulid_trained"
    start: str = ""  # a PuLID file to go on from; "": from nothing
    dim: int = number(1024, 64)
    depth: int = number(10, 5)
    encoder_heads: int = number(16, 1)
    queries: int = number(32, 1)
    face_tokens: int = number(5, 1)
    token_width: int = number(2048, 1)
    heads: int = number(16, 1)
    calibrate: int = number(64, 0)  # photos that set a new encoder's norms; 0: none do
    dtype: str = choice("bfloat16", "float16", "float32")  # of the file
    licence: str = ""
    trained_on: str = ""


@dataclass(frozen=True)
class Optimizer:
    """What turns gradients into steps; ``beta1`` and ``beta2`` are AdamW's."""

    kind: str = choice("adamw", "adamw8bit", "muon")
    beta1: float = number(0.9, 0.0, 1.0)
    beta2: float = number(0.99, 0.0, 1.0)
    weight_decay: float = number(0.01, 0.0)
    clip: float = number(1.0, 0.0)  # of the gradient's norm; 0: not clipped
    ema: float = number(0.0, 0.0, 1.0)  # decay of the averaged weights; 0: none are kept


@dataclass(frozen=True)
class Validation:
    """What is looked at on people who are never trained on."""

    every: int = number(500, 1)
    people: int = number(16, 2)
    shown: int = number(4, 1)  # rows of the sample sheet
    steps: int = number(4, 1)
    weights: tuple[float, ...] = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own losses and schedule."""

    name: str
    steps: int = number(None, 1)
    rate: float = number(1e-4, 0.0)
    schedule: str = choice("constant", "cosine")
    warmup: int = number(0, 0)
    batch: int = number(1, 1)  # pictures of one forward, on each process
    accumulate: int = number(1, 1)
    shift: float = number(1.0, 0.01)  # of L_diff's noise levels in flow models; above 1: more noise
    diffusion: float = number(1.0, 0.0)  # weights of the losses
    id: float = number(0.0, 0.0)
    semantic: float = number(0.0, 0.0)
    layout: float = number(0.0, 0.0)
    id_on: str = choice("branch", "estimate")  # accurate, or naive: the one-step estimate of x0
    alignment: str = choice("auto", "features", "queries")  # auto: features, for SDXL queries
    branch_batch: int = number(0, 0)  # pictures of the branch; 0: as many as batch
    branch_steps: int = number(4, 1)
    gradient_steps: int = number(0, 0)  # the last steps that get a gradient; 0: all

    @property
    def branches(self) -> bool:
        """Whether the few-step branch is run."""
        return (self.id > 0 and self.id_on == "branch") or self.semantic > 0 or self.layout > 0


@dataclass(frozen=True)
class Config:
    """All of it; ``root`` is the folder that relative paths start from."""

    root: Path
    run: Run
    model: Model
    data: Data
    adapter: AdapterSettings
    optimizer: Optimizer
    validation: Validation
    stages: tuple[Stage, ...]

    def path(self, text: str) -> Path:
        """Return a path of the file."""
        return (self.root / Path(text).expanduser()).resolve()

    def model_file(self, text: str) -> Path:
        """Return a path below the models folder."""
        return (self.path(self.model.models) / Path(text).expanduser()).resolve()

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.path(self.run.folder)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def digest(self) -> str:
        """Return a fingerprint of everything that changes what a step computes."""
        parts = asdict(replace(self, root=Path()))
        for name in ("folder", "log_every", "checkpoint_every", "keep", "tensorboard"):
            parts["run"].pop(name)
        del parts["validation"], parts["data"]["cache"]
        for name in ("licence", "trained_on", "name", "dtype"):
            parts["adapter"].pop(name)
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def read_config(path: Path, **run: Any) -> Config:
    """Read the settings file ``path``; ``run`` takes the place of settings of its run table.

    Raises FileNotFoundError, or ValueError naming the setting that is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no settings file {path}. See training/examples/.")
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables = toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}. Correct that line.") from error
    return from_tables(tables, path.resolve().parent, path.name, **run)


def from_tables(tables: dict[str, Any], root: Path, name: str, **run: Any) -> Config:
    """Return the settings in ``tables``; ValueError names table and key that are wrong."""
    for table in tables:
        if table not in (*TABLES, "stage"):
            raise ValueError(f"{name} has a table [{table}], expected {', '.join(TABLES)}, stage.")
    stages = tables.get("stage", [])
    if not isinstance(stages, list) or not stages:
        raise ValueError(f"{name} has no [[stage]], so there is nothing to train. Add one.")
    config = Config(
        root,
        *(
            read_table(kind, {**tables.get(table, {}), **more}, f"{name} [{table}]")
            for table, kind, more in (
                ("run", Run, run),
                ("model", Model, {}),
                ("data", Data, {}),
                ("adapter", AdapterSettings, {}),
                ("optimizer", Optimizer, {}),
                ("validation", Validation, {}),
            )
        ),
        tuple(
            read_table(Stage, values, f"{name} [[stage]] {place}")
            for place, values in enumerate(stages, 1)
        ),
    )
    check_together(config, name)
    return config


def check_together(config: Config, name: str) -> None:
    """Raise ValueError where settings contradict each other."""
    if config.data.size % 16:
        raise ValueError(f"{name} [data] size is {config.data.size}, expected a multiple of 16.")
    if config.adapter.depth % 5:
        raise ValueError(
            f"{name} [adapter] depth is {config.adapter.depth}, expected a multiple of 5, since "
            "the vision tower gives five scales."
        )
    for place, stage in enumerate(config.stages, 1):
        where = f"{name} [[stage]] {place}"
        if not any((stage.diffusion, stage.id, stage.semantic, stage.layout)):
            raise ValueError(f"{where}: every loss has weight 0. Give one of them a weight.")
        if stage.gradient_steps > stage.branch_steps:
            raise ValueError(
                f"{where}: gradient_steps is {stage.gradient_steps}, but the branch has "
                f"{stage.branch_steps} steps. Use at most that many."
            )
