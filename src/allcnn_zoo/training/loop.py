"""Training, from the images to the weights file.

The loop uses data parallelism. A batch is cut into micro-batches of fixed size; every process takes
some, one sum over all processes adds up the gradients, and all make the same step. Batch
normalization uses the statistics of a micro-batch, so the result does not depend on the number of
processes. Orders, flips, shifts, crops and dropout derive from the seed and the position, except
the dropout of the `neon` recipe, whose stream of random numbers is part of its state. So the state
of a run is its learner (parameters, optimizers, that stream) and its position, and an interrupted
run continues bit for bit.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cifar import DATASETS, Split
from ..distributed import World, default_processes, handling_signals, launch
from ..engines import using_threads
from ..errors import LostProcessError, TrainingError
from ..machine import FloatPrecision, has_fast_bfloat16, usable_cores
from ..model import AllCNN
from ..preprocessing import Preprocessor
from ..storage import write_atomically
from ..weights import Metadata
from . import augmentation as views
from .calibration import fit_temperature, metrics, metrics_with_mirror, probabilities
from .learner import Learner, ModernLearner, scale_logits
from .original_recipe import NeonLearner
from .recipes import NeonMethod, Recipe, get_recipe
from .run_directory import RunDirectory, draw_curve

_FOLD_TOLERANCE = 1e-5
_MEASURED_IMAGES = 4096


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of `train`."""

    recipe: Recipe
    data: Path | None
    out: Path
    seed: int
    holdout: int
    resume: bool
    test: bool


def train(
    recipe: str | Recipe = "best",
    data: str | Path | None = None,
    out: str | Path = "run",
    *,
    model: str | None = None,
    precision: FloatPrecision | None = None,
    epochs: int | None = None,
    seed: int = 0,
    holdout: int = 0,
    resume: bool = False,
    test: bool = False,
    processes: int | None = None,
) -> dict[str, Any]:
    """Train a network on CIFAR-10 or CIFAR-100 and write its weights.

    Under ``torchrun`` this process is one of those that train together. Otherwise it starts the
    processes.

    Args:
        recipe: A name in `RECIPES`, or a recipe of your own.
        data: Folder that holds the data set's folder, as for `CIFAR10`.
        out: Directory of the run: state, metrics, weights and results. Several machines must share
            it, because each reads the state of a resumed run.
        model: A name in `list_models()`; the recipe's network by default.
        precision: ``"bfloat16"`` or ``"float32"``. By default the recipe decides, and a resumed run
            keeps its precision.
        epochs: Number of epochs; the recipe's by default.
        seed: Random seed.
        holdout: How many of the 50,000 training images to hold out and measure on; the same ones
            in every run.
        resume: Continue the run in `out`, if there is one.
        test: Also measure on the test images, once, at the end.
        processes: Number of processes; by default one per core, or one on an accelerator.

    Returns:
        The content of ``results.json``.

    Raises:
        UnknownNameError: No recipe or network has this name.
        DatasetError: The images are missing or damaged.
        TrainingError: The run cannot start, was interrupted, or diverged.
        LostProcessError: One of the processes was lost.
    """
    if seed < 0:
        raise TrainingError(f"seed={seed}: 0 or more is needed")
    if processes is not None and processes < 1:
        raise TrainingError(f"processes={processes}: at least 1 is needed")
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = recipe.for_model(model) if model else recipe
    recipe = dataclasses.replace(
        recipe,
        epochs=recipe.epochs if epochs is None else epochs,
        precision=precision or recipe.precision,
    )
    job = Job(recipe, None if data is None else Path(data), Path(out), seed, holdout, resume, test)
    try:
        return launch(run, job, processes or default_processes())
    except LostProcessError as error:
        raise LostProcessError(f"{error}; continue with --resume") from error


def run(world: World, job: Job) -> dict[str, Any]:
    """One process's part of a training; the first returns the results."""
    if job.recipe.precision == "auto":
        native = all(world.gather(has_fast_bfloat16(world.device.type)))
        precision = job.resume and RunDirectory(job.out).precision()
        precision = precision or ("bfloat16" if native else "float32")
        job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, precision=precision))
    trainer = world.agree(lambda: Trainer(world, job))
    try:
        # On a GPU: reproducible bits, and float32 that is not rounded to TF32.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            trainer.fit()
            with using_threads(usable_cores()):  # the other processes are done
                return trainer.finish() if world.is_first else {}
    finally:
        trainer.directory.release()


def build_learner(recipe: Recipe, seed: int, world: World) -> Learner:
    """A new network with its training method."""
    kind = NeonLearner if isinstance(recipe.method, NeonMethod) else ModernLearner
    with torch.random.fork_rng(devices=[]):  # leave the caller's random state unchanged
        return kind(recipe, seed, world)


class Trainer:
    """A network in training, its images, its directory and its progress."""

    def __init__(self, world: World, job: Job) -> None:
        self.world, self.job, self.recipe = world, job, job.recipe
        # By default, tqdm makes a lock for processes, which remains if they are killed.
        tqdm.set_lock(threading.RLock())
        self.dataset = DATASETS[self.recipe.dataset](job.data)
        split = self.dataset.train
        training, held_out = views.split_indices(len(split), job.holdout)
        self.images, self.labels = (each.to(world.device) for each in _tensors(split, training))
        self.held_out = _tensors(split, held_out)
        self.facts: dict[str, Any] = {
            "recipe": dataclasses.asdict(self.recipe),
            "seed": job.seed,
            "training_images": len(training),
            "held_out_images": len(held_out),
        }

        self.preprocess = Preprocessor.shipped().to(world.device)
        self.learner = build_learner(self.recipe, job.seed, world)
        self.whiten = views.Whitening(self.preprocess, getattr(torch, self.recipe.precision))
        # The gradients, and three sums over the images: one sum over the processes then covers all
        # of them.
        self.sums = share_gradients(self.learner.parameters, 3)

        self.epoch, self.batch = 0, 0
        self.totals = dict.fromkeys(("loss", "right", "images", "seconds", "wall_seconds"), 0.0)
        self.stop_requested = False
        self.directory = RunDirectory(job.out)
        if state := self.directory.load_state(self.facts) if job.resume else None:
            self.learner.restore(state["learner"])
            self.epoch, self.batch, self.totals = state["epoch"], state["batch"], state["totals"]
        if world.is_first:
            self.directory.start(self.facts, resume=job.resume)

    def _say(self, text: str) -> None:
        if self.world.is_first and sys.stderr:  # a service may have closed it
            tqdm.write(text, file=sys.stderr)

    # The loop.

    def fit(self) -> None:
        """Train to the end of the last epoch, or until SIGTERM or SIGINT arrives."""
        recipe, device = self.recipe, self.world.device
        self._say(
            f"{recipe.name}: {recipe.architecture.name}, {recipe.dataset}, {recipe.precision},"
            f" {len(self.images)} images, {self.world.size} x {device}"
        )
        devices = [device] if device.type == "cuda" else []
        with handling_signals(self._request_stop), torch.random.fork_rng(devices=devices):
            self.clock = time.perf_counter()
            while self.epoch < recipe.epochs:
                plan = views.plan_epoch(recipe, len(self.images), self.job.seed, self.epoch)
                with tqdm(
                    total=len(plan.batches),
                    initial=self.batch,
                    desc=f"epoch {self.epoch + 1}/{recipe.epochs}",
                    unit="batch",
                    leave=False,
                    disable=None if self.world.is_first and sys.stderr else True,
                ) as bar:
                    while self.batch < len(plan.batches):
                        self._step(plan)
                        bar.update()
                self._end_epoch()

    def _step(self, plan: views.Epoch) -> None:
        """One optimizer step on one batch, together with the other processes."""
        start = time.perf_counter()
        progress = (self.epoch + self.batch / len(plan.batches)) / self.recipe.epochs
        self.learner.set_learning_rate(self.epoch, progress)
        pixels = views.resolution(self.recipe, progress)
        indices = plan.batches[self.batch]
        parts = np.split(indices, len(indices) // self.recipe.ghost_batch)

        self.sums.zero_()
        self.learner.start_batch(len(indices))
        for number in range(self.world.rank, len(parts), self.world.size):
            chosen, place = parts[number], (self.epoch, self.batch, number)
            there = views.on_device(chosen, self.world.device)
            images = views.augment(self.images[there], plan.shifts[chosen], plan.flipped[chosen])
            random = np.random.default_rng([self.job.seed, views.CROP, *place])
            whitened = views.cut_out(self.whiten(images), self.recipe.cutout, random)
            self.learner.start_part(*place)
            loss, right = self.learner.accumulate(
                views.crop(whitened, pixels, random),
                self.labels[there],
                share=len(chosen) / len(indices),
            )
            self.sums[-3] += loss
            self.sums[-2] += right
        self.sums[-1] = self.stop_requested
        self.world.sum(self.sums)
        if not torch.isfinite(self.sums).all():  # the step would ruin the parameters
            raise TrainingError(
                f"the gradients are not finite in epoch {self.epoch + 1}, batch {self.batch + 1};"
                f" the state before this epoch is kept in {self.directory.state}: --resume"
                " continues from there, but a lower learning rate is the likely cure"
            )
        self.learner.step()
        loss, right, stop = self.sums[-3:].tolist()
        self.batch += 1
        self.totals["loss"] += loss * len(indices)
        self.totals["right"] += right
        self.totals["images"] += len(indices)
        self.totals["seconds"] += time.perf_counter() - start
        self._count_wall_clock()
        if stop:
            self._save()
            raise TrainingError(
                f"stopped by a signal in epoch {self.epoch + 1}, after batch {self.batch};"
                " continue with --resume"
            )

    def _count_wall_clock(self) -> None:
        """Add the time since the last call."""
        now = time.perf_counter()
        self.totals["wall_seconds"] += now - self.clock
        self.clock = now

    def _end_epoch(self) -> None:
        """Measure, report, and save the epoch."""
        accuracy = self._held_out_accuracy()
        self._count_wall_clock()
        totals, self.totals = self.totals, dict.fromkeys(self.totals, 0.0)
        self.epoch, self.batch = self.epoch + 1, 0
        if not self.world.is_first:
            return
        epochs = self.recipe.epochs
        pixels = [views.resolution(self.recipe, (each + 0.5) / epochs) for each in range(epochs)]
        line = {
            "epoch": self.epoch,
            "lr": self.learner.optimizers[0].param_groups[0]["lr"],  # of the kernels, at the end
            "pixels": pixels[self.epoch - 1],
            "train_loss": totals["loss"] / totals["images"],
            "train_accuracy": totals["right"] / totals["images"],
            "held_out_accuracy": accuracy,
            "seconds": totals["seconds"],
            "wall_seconds": totals["wall_seconds"],
            "images_per_second": totals["images"] / totals["seconds"],
        }
        self.directory.append_metrics(line)
        self._save()
        held_out = "" if accuracy is None else f"  held out {accuracy:.2%}"
        left = sum(side**2 for side in pixels[self.epoch :]) / line["pixels"] ** 2
        self._say(
            f"epoch {self.epoch}/{epochs}  {line['pixels']} px"
            f"  loss {line['train_loss']:.4f}  train {line['train_accuracy']:.2%}{held_out}"
            f"  {line['seconds']:.0f} s  {line['images_per_second']:.0f} images/s"
            f"  ETA {line['seconds'] * left / 60:.0f} min"
        )

    # Held-out images.

    def _held_out_accuracy(self) -> float | None:
        """Accuracy on the held-out images, each process doing its share.

        Only after every fifth epoch and each of the last five, because it takes long; else None.
        """
        due = (self.epoch + 1) % 5 == 0 or self.epoch + 1 > self.recipe.epochs - 5
        if not (self.job.holdout and due):
            return None
        images, labels = self.held_out
        with self._measured():
            right = torch.zeros(1, device=self.world.device)
            for start in range(self.world.rank * 64, len(images), self.world.size * 64):
                logits = self.learner.logits(self.whiten(images[start : start + 64]))
                right += (logits.argmax(1).cpu() == labels[start : start + 64]).sum().item()
        return float(self.world.sum(right)) / len(images)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        """Switch to eval mode, with statistics of training images."""
        with torch.no_grad():
            count = min(_MEASURED_IMAGES, len(self.images))
            batches = torch.split(self.images[:count], self.recipe.ghost_batch)
            self.learner.settle(self.whiten(batch) for batch in batches)
            yield
        self.learner.model.train()

    def _request_stop(self, *_: object) -> None:
        self.stop_requested = True

    def _save(self) -> None:
        if self.world.is_first:
            position = {"epoch": self.epoch, "batch": self.batch, "totals": self.totals}
            learner = self.learner.state()
            self.directory.save_state({"facts": self.facts, **position, "learner": learner})

    # The end.

    def finish(self) -> dict[str, Any]:
        """Measure the plain network, and write weights, results and curve; returns the results."""
        plain, fold_error = self._fold()
        classes, temperature = self.recipe.classes, self.recipe.temperature
        measured = {}
        if self.job.holdout:
            images, labels = (tensor.numpy() for tensor in self.held_out)
            predicted = probabilities(plain, images)
            temperature = fit_temperature(predicted, labels)
            measured["held_out"] = metrics(predicted, labels, classes, temperature)
        if self.job.test:
            test = self.dataset.test
            measured["test"] = metrics_with_mirror(
                plain, test.images, test.labels, classes, temperature
            )
        lines = self.directory.read_metrics()
        results = self.directory.finish(
            {
                "command": self.recipe.command(self.job.seed, self.job.holdout, self.job.test),
                "temperature": temperature,
                "fold_error": fold_error,
                "training_seconds": sum(line["seconds"] for line in lines),
                "wall_seconds": sum(line["wall_seconds"] for line in lines),
                **measured,
            }
        )
        scale_logits(plain, 1 / temperature)
        made = (*self.facts, "command", "temperature", "fold_error", "commit", "versions")
        plain.save(
            self.directory.weights,
            tag=self.recipe.tag,
            provenance={name: results[name] for name in made},
            metrics=measured,
        )
        curve = draw_curve(lines, f"{self.recipe.tag}, seed {self.job.seed}")
        if curve:
            write_atomically(self.directory.curve, curve)
        else:
            self._say("no curve.png: matplotlib is missing (pip install 'allcnn-zoo[plots]')")
        return results

    def _fold(self) -> tuple[AllCNN, float]:
        """The plain network, and the relative difference of its logits from the trained one's."""
        self.whiten = views.Whitening(self.preprocess, torch.float32)
        self.learner.set_precision("float32")
        with self._measured():
            plain = self.learner.plain()
            probe = self.whiten(self.images[:256])
            expected = self.learner.logits(probe)[:, : plain.architecture.num_classes]
            error = float((plain(probe) - expected).abs().max() / expected.abs().max())
        if not error < _FOLD_TOLERANCE:
            raise TrainingError(f"the plain network's logits are off by {error:.1e} of the largest")
        plain.weights = Metadata(self.recipe.tag, plain.architecture, self.recipe.classes)
        return plain, error


def _tensors(split: Split, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.images[indices]), torch.from_numpy(split.labels[indices])


def share_gradients(parameters: list[nn.Parameter], more: int = 0) -> Tensor:
    """Make the gradients views into one vector, which has space for `more` numbers at its end."""
    sizes = [parameter.numel() for parameter in parameters]
    vector = torch.zeros(sum(sizes) + more, device=parameters[0].device)
    for parameter, part in zip(parameters, torch.split(vector[: sum(sizes)], sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    return vector
