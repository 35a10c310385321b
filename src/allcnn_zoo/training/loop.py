"""Training All-CNN-C on CIFAR-10, from the images to the weights file: read it top to bottom.

The loop is plain data parallelism. A batch is cut into micro-batches of fixed size; every process
takes some, one sum over all processes adds up the gradients, and each makes the same step. Batch
normalisation takes its statistics from a micro-batch, so how many processes share the work does
not change what is computed. Nothing random is carried from one step to the next: orders, flips,
shifts, crops and dropout masks are derived from the seed and the position. So the state of a run
is its parameters, its optimizers and its position, and a run that was cut off anywhere continues
bit for bit.
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ..architecture import AllCNN, fold_batch_norm
from ..catalogue import CIFAR10_CLASSES
from ..checkpoint import Metadata
from ..checkpoint import save as save_weights
from ..cifar10 import CIFAR10, Split
from ..classifier import Classifier
from ..errors import TrainingError
from ..evaluation import Evaluation, summarise
from ..preprocessing import Preprocessor
from . import data as views
from .distributed import World, default_processes, handling_signals, is_launched, joined, launch
from .optimizers import Muon
from .recipes import Recipe, get_recipe
from .run import RunDirectory

_FOLD_TOLERANCE = 1e-5
_MEASURED_IMAGES = 4096


@dataclasses.dataclass(frozen=True)
class Job:
    """What `train` was asked for."""

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
    epochs: int | None = None,
    seed: int = 0,
    holdout: int = 0,
    resume: bool = False,
    test: bool = False,
    processes: int | None = None,
) -> dict[str, Any]:
    """Train a network on CIFAR-10 and write its weights.

    Under ``torchrun`` this process is one of those that train together. Otherwise the processes
    are started here (so a script needs the usual ``if __name__ == "__main__"``).

    Args:
        recipe: How; a name in `RECIPES`, or a recipe of your own.
        data: Folder that holds ``cifar-10-batches-py``, as for `CIFAR10`.
        out: Directory of the run: state, metrics, weights and results.
        epochs: Passes over the images, where the recipe's own are not wanted.
        seed: Of everything that is random.
        holdout: How many of the 50,000 training images to keep apart and measure on; the same
            ones in every run.
        resume: Continue the run in `out`, if there is one.
        test: Measure on the test images too, once, at the very end.
        processes: How many to start; by default one per core, or one on an accelerator.

    Returns:
        The content of ``results.json``.

    Raises:
        UnknownNameError: No recipe has this name.
        DatasetError: The images are missing or damaged.
        TrainingError: The run cannot start, was interrupted, or went astray.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    job = Job(recipe, None if data is None else Path(data), Path(out), seed, holdout, resume, test)
    if is_launched():
        with joined(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as world:
            return run(world, job)
    results: dict[str, Any] = launch(run, job, processes or default_processes())
    return results


def run(world: World, job: Job) -> dict[str, Any]:
    """One process's part of a training; the first returns the results."""
    trainer = Trainer(world, job)
    trainer.fit()
    return trainer.finish() if world.is_first else {}


class Trainer:
    """A network, its optimizers, its images, and how far it has come."""

    def __init__(self, world: World, job: Job) -> None:
        self.world, self.job, self.recipe = world, job, job.recipe
        self.cifar10 = CIFAR10(job.data)
        split = self.cifar10.train
        training, held_out = views.split_indices(len(split), job.holdout)
        self.images, self.labels = _tensors(split, training)
        self.held_out = _tensors(split, held_out)
        self.facts: dict[str, Any] = {
            "recipe": dataclasses.asdict(self.recipe),
            "seed": job.seed,
            "training_images": len(training),
            "held_out_images": len(held_out),
        }

        torch.manual_seed(views.derive(job.seed, views.INITIALISATION))
        self.model = AllCNN(
            self.recipe.architecture,
            dropout=self.recipe.dropout,
            batch_norm=self.recipe.batch_norm,
        )
        initialise(self.model)
        self.model.to(world.device)
        self.parameters = trainable_parameters(self.model)
        self.optimizers = build_optimizers(self.model, self.recipe)
        # Gradients are views into one vector, followed by three sums over the images: one sum over
        # the processes then covers everything that they must agree on.
        self.sums = torch.zeros(
            sum(parameter.numel() for parameter in self.parameters) + 3, device=world.device
        )
        _share_gradients(self.parameters, self.sums)

        dtype = getattr(torch, self.recipe.precision)
        self.whiten = views.Whitening(Preprocessor.shipped(), dtype, world.device)
        self.autocast = torch.autocast(
            world.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16
        )
        self.epoch, self.batch = 0, 0
        self.totals = dict.fromkeys(("loss", "right", "images", "seconds"), 0.0)
        self.stop_requested = False
        self.directory = RunDirectory(job.out)
        if world.is_first:
            self.directory.start(self.facts, resume=job.resume)
        world.sum(torch.zeros(1, device=world.device))  # nobody looks before the first has checked
        self._restore()

    # The loop.

    def fit(self) -> None:
        """Train to the end of the last epoch.

        Raises:
            TrainingError: SIGTERM or SIGINT arrived, or the numbers are no longer finite.
        """
        with handling_signals(self._request_stop), torch.random.fork_rng():
            while self.epoch < self.recipe.epochs:
                plan = views.plan_epoch(self.recipe, len(self.images), self.job.seed, self.epoch)
                while self.batch < len(plan.batches):
                    self._step(plan)
                self._end_epoch()

    def _step(self, plan: views.Epoch) -> None:
        """One optimizer step on one batch, together with the other processes."""
        start = time.perf_counter()
        progress = (self.epoch + self.batch / len(plan.batches)) / self.recipe.epochs
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * (1 - progress)
        indices = plan.batches[self.batch]
        pixels = views.resolution(self.recipe, progress)

        self.sums.zero_()
        micro_batches = np.split(
            indices, range(self.recipe.ghost_batch, len(indices), self.recipe.ghost_batch)
        )
        for number in range(self.world.rank, len(micro_batches), self.world.size):
            chosen = micro_batches[number]
            images = views.augment(self.images[chosen], plan.shifts[chosen], plan.flipped[chosen])
            place = (self.epoch, self.batch, number)
            window = np.random.default_rng([self.job.seed, views.CROP, *place])
            torch.manual_seed(views.derive(self.job.seed, views.DROPOUT, *place))
            self._accumulate(
                views.crop(self.whiten(images), pixels, window),
                self.labels[chosen].to(self.world.device),
                share=len(chosen) / len(indices),
            )
        self.sums[-1] = self.stop_requested
        self.world.sum(self.sums)

        if not bool(torch.isfinite(self.sums).all()):
            raise TrainingError(
                f"the gradients are not finite in epoch {self.epoch + 1}, batch {self.batch + 1};"
                f" the state before this epoch is kept in {self.directory.state}: --resume"
                " continues from there, but a lower learning rate is the likely cure"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        loss, right, stop = self.sums[-3:].tolist()
        self.batch += 1
        self.totals["loss"] += loss * len(indices)
        self.totals["right"] += right
        self.totals["images"] += len(indices)
        self.totals["seconds"] += time.perf_counter() - start
        if stop:
            self._save()
            raise TrainingError(
                f"stopped by a signal in epoch {self.epoch + 1}, after batch {self.batch};"
                " continue with --resume"
            )

    def _accumulate(self, images: Tensor, labels: Tensor, share: float) -> None:
        """Add a micro-batch's gradients, loss and right answers to the sums."""
        logits = self._logits(images)
        loss = share * functional.cross_entropy(
            logits, labels, label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.sums[-3] += loss.detach()
        self.sums[-2] += (logits.argmax(dim=1) == labels).sum()

    def _logits(self, images: Tensor) -> Tensor:
        """The model's logits, scaled; the last convolution stays in float32."""
        with self.autocast:
            features = self.model.forward_features(images)
        maps = self.model.final_activation(self.model.classifier(features.float()))
        logits: Tensor = maps.mean(dim=(2, 3)) * self.recipe.logit_scale
        return logits

    def _end_epoch(self) -> None:
        """Measure, report, and make the epoch safe."""
        accuracy = self._held_out_accuracy() if self._is_measured(self.epoch + 1) else None
        totals, self.totals = self.totals, dict.fromkeys(self.totals, 0.0)
        learning_rate = self.optimizers[0].param_groups[0]["lr"]
        self.epoch, self.batch = self.epoch + 1, 0
        if not self.world.is_first:
            return
        line = {
            "epoch": self.epoch,
            "lr": learning_rate,
            "pixels": views.resolution(self.recipe, (self.epoch - 0.5) / self.recipe.epochs),
            "train_loss": totals["loss"] / totals["images"],
            "train_accuracy": totals["right"] / totals["images"],
            "held_out_accuracy": accuracy,
            "seconds": totals["seconds"],
            "images_per_second": totals["images"] / totals["seconds"],
        }
        self.directory.append_metrics(line)
        self._save()
        self._report(line)

    def _report(self, line: dict[str, Any]) -> None:
        held_out = line["held_out_accuracy"]
        left = sum(self._cost(epoch) for epoch in range(self.epoch, self.recipe.epochs))
        minutes = line["seconds"] * left / self._cost(self.epoch - 1) / 60
        tqdm.write(
            f"epoch {self.epoch}/{self.recipe.epochs}  {line['pixels']} px"
            f"  loss {line['train_loss']:.4f}  train {line['train_accuracy']:.2%}"
            + ("" if held_out is None else f"  held out {held_out:.2%}")
            + f"  {line['seconds']:.0f} s  {line['images_per_second']:.0f} images/s"
            f"  ETA {minutes:.0f} min",
            file=sys.stderr,
        )

    def _cost(self, epoch: int) -> int:
        return views.resolution(self.recipe, (epoch + 0.5) / self.recipe.epochs) ** 2

    # Held-out images.

    def _is_measured(self, epoch: int) -> bool:
        """Every fifth epoch, and each of the last five; measuring takes a while."""
        return bool(self.job.holdout) and (epoch % 5 == 0 or epoch > self.recipe.epochs - 5)

    def _held_out_accuracy(self) -> float:
        """Accuracy on the held-out images, each process doing its share."""
        images, labels = self.held_out
        with self._measured():
            right = torch.zeros(1, device=self.world.device)
            for start in range(self.world.rank * 64, len(images), self.world.size * 64):
                logits = self._logits(self.whiten(images[start : start + 64]))
                right += (logits.argmax(1).cpu() == labels[start : start + 64]).sum().item()
        return float(self.world.sum(right)) / len(images)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[None]:
        """In eval mode, with the statistics of batch normalisation measured anew."""
        with torch.no_grad():
            count = min(_MEASURED_IMAGES, len(self.images))
            batches = torch.split(self.images[:count], self.recipe.ghost_batch)
            with self.autocast:
                measure_statistics(self.model, (self.whiten(batch) for batch in batches))
            yield
        self.model.train()

    # State.

    def _request_stop(self, *_: object) -> None:
        self.stop_requested = True

    def _save(self) -> None:
        if self.world.is_first:
            self.directory.save_state(
                {
                    "facts": self.facts,
                    "epoch": self.epoch,
                    "batch": self.batch,
                    "totals": self.totals,
                    "model": self.model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                }
            )

    def _restore(self) -> None:
        state = self.directory.load_state(self.facts) if self.job.resume else None
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.epoch, self.batch, self.totals = state["epoch"], state["batch"], state["totals"]

    # The end.

    def finish(self) -> dict[str, Any]:
        """Fold, measure, and write weights and results; returns the results."""
        torch.set_num_threads(os.cpu_count() or 1)  # the other processes are done
        plain, fold_error = self._fold()
        temperature, measured = self.recipe.temperature, {}
        if self.job.holdout:
            probabilities = _probabilities(plain, self.held_out[0].numpy())
            temperature = fit_temperature(probabilities, self.held_out[1].numpy())
            measured["held_out"] = _figures(probabilities, self.held_out[1].numpy(), temperature)
        if self.job.test:
            measured["test"] = self._test(plain, temperature)
        lines = self.directory.read_metrics()
        summary = {
            "temperature": temperature,
            "fold_error": fold_error,
            "training_seconds": sum(line["seconds"] for line in lines),
            **measured,
        }
        results = self.directory.finish(summary)
        assert isinstance(plain.weights, Metadata)
        provenance = {
            name: results[name] for name in (*self.facts, "commit", "versions", "fold_error")
        }
        metadata = dataclasses.replace(
            plain.weights,
            provenance=provenance,
            metrics=measured,
            temperature=temperature,
        )
        save_weights(self.directory.weights, plain.state_dict(), metadata)
        return results

    def _fold(self) -> tuple[AllCNN, float]:
        """The plain network, and how far its logits are from the trained one's, relatively."""
        self.whiten = views.Whitening(Preprocessor.shipped(), torch.float32, self.world.device)
        self.autocast = torch.autocast(self.world.device.type, enabled=False)
        with self._measured():
            plain = fold_batch_norm(self.model)
            plain.classifier.weight.mul_(self.recipe.logit_scale)
            assert plain.classifier.bias is not None
            plain.classifier.bias.mul_(self.recipe.logit_scale)
            probe = self.whiten(self.images[:256])
            expected = self._logits(probe)
            error = float((plain(probe) - expected).abs().max() / expected.abs().max())
        if not error < _FOLD_TOLERANCE:
            raise TrainingError(
                f"folding batch normalisation changed the logits by {error:.1e} of the largest"
            )
        plain.weights = Metadata(
            tag=f"cifar10_{self.recipe.name}",
            architecture=self.recipe.architecture,
            classes=CIFAR10_CLASSES,
        )
        return plain, error

    def _test(self, plain: AllCNN, temperature: float) -> dict[str, Any]:
        """Figures on the test images, and the accuracy averaged with their mirror images."""
        images, labels = self.cifar10.test.images, self.cifar10.test.labels
        probabilities = _probabilities(plain, images)
        mirrored = _probabilities(plain, np.ascontiguousarray(images[..., ::-1]))
        flip_averaged = ((probabilities + mirrored).argmax(axis=1) == labels).mean()
        return {
            **_figures(probabilities, labels, temperature),
            "flip_averaged_accuracy": float(flip_averaged),
        }


def initialise(model: AllCNN) -> None:
    """He's initialisation plus the identity: a layer at first mostly hands its input on.

    The scale of batch normalisation stays 1 (the next kernel can do its work), and a bias before
    it would be without effect.
    """
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            layer.bias.requires_grad = False
            out, channels, height, width = layer.weight.shape
            if channels > 3:
                same = torch.arange(min(out, channels))
                with torch.no_grad():
                    layer.weight[same, same, height // 2, width // 2] += 1
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.requires_grad = False
    nn.init.kaiming_normal_(model.classifier.weight, nonlinearity="linear")
    assert model.classifier.bias is not None
    model.classifier.bias.requires_grad = False


def trainable_parameters(model: AllCNN) -> list[nn.Parameter]:
    """What gradients are needed for, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_optimizers(model: AllCNN, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the kernels, Nesterov SGD for the biases and the last convolution."""
    trunk = [p for p in model.features.parameters() if p.requires_grad]
    sgd_groups = [
        {"params": [p for p in trunk if p.dim() == 1], "lr": recipe.bias_lr},
        {
            "params": [model.classifier.weight],
            "lr": recipe.head_lr,
            "weight_decay": recipe.head_decay,
        },
    ]
    optimizers: list[torch.optim.Optimizer] = [
        Muon([p for p in trunk if p.dim() > 1], recipe.kernel_lr, recipe.kernel_momentum),
        torch.optim.SGD(sgd_groups, momentum=recipe.sgd_momentum, nesterov=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def measure_statistics(model: AllCNN, batches: Iterator[Tensor]) -> None:
    """Set batch normalisation to the mean of its statistics over batches, and go to eval mode."""
    norms = [layer for layer in model.features if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in batches:
        model.forward_features(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def fit_temperature(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The divisor of the logits that makes the right classes most likely, to 0.01."""
    candidates = np.arange(0.3, 3.0, 0.01)
    losses = [
        summarise(soften(probabilities, float(t)), labels, CIFAR10_CLASSES, seconds=0).nll
        for t in candidates
    ]
    return round(float(candidates[int(np.argmin(losses))]), 2)


def soften(probabilities: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """The probabilities that the same logits give at another temperature than 1."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    softened: npt.NDArray[np.float32] = torch.from_numpy(logits).softmax(dim=1).numpy()
    return softened


def _probabilities(model: AllCNN, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return Classifier(model).predict_proba(images, progress=True)


def _figures(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], temperature: float
) -> dict[str, Any]:
    """Figures at a temperature, and the calibration without it."""
    before: Evaluation = summarise(probabilities, labels, CIFAR10_CLASSES, seconds=0)
    after = summarise(soften(probabilities, temperature), labels, CIFAR10_CLASSES, seconds=0)
    figures = after.to_json()
    del figures["seconds"]
    return {**figures, "nll_before_temperature": before.nll, "ece_before_temperature": before.ece}


def _tensors(split: Split, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.images[indices]), torch.from_numpy(split.labels[indices])


def _share_gradients(parameters: list[nn.Parameter], vector: Tensor) -> None:
    start = 0
    for parameter in parameters:
        parameter.grad = vector[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
