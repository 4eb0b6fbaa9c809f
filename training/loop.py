"""The training loop: stages, steps, figures, checkpoints, and the file that comes out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import torch

from . import checkpoints
from .adapter import Adapter
from .checkpoints import Checkpoint
from .config import Config, Stage
from .dataset import Pictures, batch
from .distributed import Group
from .draws import Order
from .models import Models
from .objective import Objective, Step, schedules
from .optimization import Averaged, arguments, clip, optimizer_class, rate
from .recorder import Recorder
from .trainable import frozen, trainable
from .validate import validate

log = logging.getLogger(__name__)
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it did."""


@dataclass
class Trainer:
    """A run in progress."""

    objective: Objective
    pictures: Pictures
    optimizer: torch.optim.Optimizer
    averaged: Averaged
    recorder: Recorder
    stop: Callable[[], bool]  # whether somebody asked for the end
    step: int = 0  # done, over all stages
    position: int = 0  # pictures taken

    @property
    def config(self) -> Config:
        return self.objective.config

    @property
    def group(self) -> Group:
        return self.objective.group

    @property
    def adapter(self) -> Adapter:
        return self.objective.adapter

    def run(self) -> None:
        """Take all steps that are left; raise Interrupted after saving if asked to stop."""
        run, checked = self.config.run, self.config.validation.every
        order = Order(len(self.pictures.train), run.seed)
        while self.step < self.config.steps:
            stage, done = stage_at(self.config, self.step)
            losses, gradient = self.take(stage, done, order)
            self.step += 1
            self.recorder.keep(self.step, stage, losses, gradient, rate(stage, done))
            last = self.step == self.config.steps
            saving = last or self.step % run.checkpoint_every == 0
            looking = last or self.step % checked == 0
            reading = saving or looking or self.step % run.log_every == 0
            # a check of its own in each step would make every process wait for the others
            stopping = (reading or self.group.alone) and self.group.any(
                self.stop(), self.objective.base.device
            )
            if reading or stopping:
                self.recorder.read_back()
            if looking and self.pictures.held_out:
                self.look()
            if saving or stopping:
                self.save()
            if stopping and not last:
                raise Interrupted(f"stopped after step {self.step} of {self.config.steps}")

    def take(
        self, stage: Stage, done: int, order: Order
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
        """Take one step; return the losses of its parts and the gradient's norm, on the device."""
        parameters = list(self.adapter.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        whole = stage.batch * self.group.size * stage.accumulate
        for part in range(stage.accumulate):
            slots, _ = self.group.slots(stage.batch, part)
            own = batch(self.pictures, order, self.position, slots, whole)
            place = Step(self.config.run.seed, self.step, slots)
            found.append(self.objective(own, place, stage, 1 / stage.accumulate))
        self.position += whole
        self.group.average([p.grad for p in parameters if p.grad is not None])
        norm = clip(parameters, self.config.optimizer.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(stage, done)
        self.optimizer.step()
        self.averaged.follow(self.adapter, self.step)
        return found, norm

    def look(self) -> None:
        """Validate, in the first process; the others go on to wait for it at the next gradient."""
        if self.group.leads:
            looked, samples = validate(self.objective, self.pictures)
            self.recorder.looked(self.step, looked, samples)

    def save(self) -> None:
        """Write a checkpoint and the PuLID file, unless the weights are damaged."""
        optimizer = self.group.state_of(self.optimizer)
        if not self.group.leads:
            return
        weights = dict(self.adapter.named_parameters())
        if (name := checkpoints.finite(weights)) is not None:
            raise RuntimeError(
                f"After step {self.step} the adapter's {name} has values that are not numbers "
                "(NaN). No checkpoint was written. Go on with --resume from the last good one, "
                "with a lower rate or clip in the settings' stage."
            )
        made = Checkpoint(
            self.step,
            self.position,
            self.config.digest(),
            weights,
            self.averaged.weights,
            optimizer,
        )
        folder = self.config.folder
        checkpoints.save(made, folder / "checkpoints", self.config.run.keep)
        self.recorder.plot()
        self.export(folder / f"{self.config.adapter.name}.safetensors")

    def export(self, path: Path) -> None:
        """Write the PuLID file of the averaged weights, or of the weights where none are kept."""
        settings = self.config.adapter
        about = {
            "base_model": self.objective.models.name,
            "licence": settings.licence,
            "trained_on": settings.trained_on,
            "steps": str(self.step),
        }
        with exchanged(self.adapter, self.averaged):
            self.adapter.save(path, {k: v for k, v in about.items() if v}, DTYPES[settings.dtype])

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        found = checkpoints.load(path, self.config.digest())
        self.adapter.load_state_dict(found.weights)
        self.averaged.load(found.averaged)
        self.optimizer.load_state_dict(found.optimizer)
        self.step, self.position = found.step, found.position


@contextlib.contextmanager
def exchanged(adapter: Adapter, averaged: Averaged) -> Iterator[None]:
    """Put the averaged weights in the weights' place for a while."""
    own = {k: v.detach().clone() for k, v in adapter.named_parameters() if k in averaged.weights}
    adapter.load_state_dict(averaged.weights, strict=False)
    try:
        yield
    finally:
        adapter.load_state_dict(own, strict=False)


def stage_at(config: Config, step: int) -> tuple[Stage, int]:
    """Return the stage of the step after ``step`` steps, and how many of its own are done."""
    for stage in config.stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError("all stages are done")


def train(
    config: Config,
    models: Models,
    pictures: Pictures,
    adapter: Adapter,
    group: Group,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train an adapter and return its PuLID file.

    Raises FileNotFoundError without a checkpoint to resume from, ValueError for one of other
    settings, RuntimeError where a loss is not a number or no face is found any more, Interrupted
    after ``stop`` said so and all was saved.
    """
    folder, dtype = config.folder, DTYPES[config.run.precision]
    kept = folder / "checkpoints"
    start = checkpoints.newest(kept) if resume else None
    if not resume and checkpoints.all_of(kept):
        raise RuntimeError(
            f"{folder} holds a run already. Go on with it by --resume, or name another folder in "
            "[run] folder."
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(deterministic(config.run.deterministic))
        for other in models.others:
            stack.enter_context(frozen(other))
        base = branch = stack.enter_context(trainable(models.base, dtype))
        if models.branch is not models.base:
            branch = stack.enter_context(trainable(models.branch, dtype))
        # once more all together: each made room for itself
        together = [base.model, branch.model, *models.others]
        comfy.model_management.load_models_gpu(together, force_full_load=True)
        adapter = adapter.to(base.device).requires_grad_(True)
        adapter.dtype = dtype
        group.start_alike(adapter)
        kind = optimizer_class(config.optimizer)
        optimizer = group.optimizer(kind, list(adapter.parameters()), **arguments(config.optimizer))
        sigmas = schedules(config, branch)
        objective = Objective(config, models, adapter, base, branch, group, sigmas)
        averaged = Averaged(adapter, config.optimizer.ema)
        recorder = Recorder(config, group)
        trainer = Trainer(objective, pictures, optimizer, averaged, recorder, stop)
        if start is not None:
            trainer.resume(start)
            log.info("going on after step %d of %d", trainer.step, config.steps)
        stack.callback(recorder.close)
        recorder.begin(trainer.step)
        checkpoints.remove_unfinished(kept)
        trainer.run()
    return folder / f"{config.adapter.name}.safetensors"


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch choose only operations that repeat to the last bit, if wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
