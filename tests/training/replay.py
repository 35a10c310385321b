"""Replaying what neon recorded, through the whole training loop of this package."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from allcnn_zoo.architectures import CIFAR10_CLASSES, Architecture
from allcnn_zoo.cifar import Split
from allcnn_zoo.distributed import World
from allcnn_zoo.training import RECIPES, NeonMethod, Recipe, augmentation, loop


class ForcedReLU(nn.Module):
    """A ReLU whose gate is given where the input is so near zero that rounding could decide it."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[int, list[tuple[int, bool]]] = {}
        self.iteration = 0

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        gate = (z > 0).contiguous()
        self.iteration += 1
        for place, is_open in self.gates.get(self.iteration, ()):
            gate.view(-1)[place] = is_open
        return z * gate


class Recorder(loop.Trainer):
    """A trainer that remembers loss, weights and velocities after each step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: list[float] = []
        self.weights: list[torch.Tensor] = []
        self.velocities: list[torch.Tensor] = []

    def _step(self, plan: augmentation.Epoch) -> None:
        super()._step(plan)
        self.losses.append(float(self.sums[-3]))
        self.weights.append(torch.cat([p.detach().flatten() for p in self.learner.parameters]))
        state = self.learner.optimizers[0].state
        name = "velocity" if "velocity" in state[self.learner.parameters[0]] else "momentum_buffer"
        self.velocities.append(
            torch.cat([state[p][name].flatten() for p in self.learner.parameters])
        )


def recipe_of(recorded: dict[str, Any], widths: tuple[int, int]) -> Recipe:
    """The neon recipe, at the size of what was recorded."""
    neon = RECIPES["neon"]
    assert isinstance(neon.method, NeonMethod)
    steps = len(recorded["cost"])
    dropped = np.flatnonzero(np.diff(recorded["lr"]) < 0)
    per_epoch = int(dropped[0]) + 1 if len(dropped) else steps
    return dataclasses.replace(
        neon,
        architecture=Architecture(num_classes=16, widths=widths),
        batch_size=32,
        ghost_batch=32,
        epochs=steps // per_epoch,
        method=dataclasses.replace(
            neon.method, init_scale=float(recorded["init_scale"]), steps=(1,)
        ),
    )


def replay(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
) -> Recorder:
    """A trainer that sees these whitened images, float32 (N, 3, 32, 32)."""
    split = Split(images, labels.astype(np.int64), ("",) * len(labels))

    class Data:
        classes = CIFAR10_CLASSES
        train = split

        def __init__(self, _: object) -> None:
            pass

    monkeypatch.setitem(loop.DATASETS, "cifar10", Data)
    monkeypatch.setattr(augmentation, "Whitening", lambda *_: lambda batch: batch)
    job = loop.Job(recipe, None, folder, seed, holdout=0, resume=False, test=False)
    return Recorder(World(), job)


def force_gates(trainer: Recorder, near_zero: np.ndarray) -> None:
    """Replace every ReLU by one that takes neon's side where a unit was near zero."""
    model = trainer.learner.model
    relus = [name for name, layer in model.features.named_children() if isinstance(layer, nn.ReLU)]
    forced = {number: ForcedReLU() for number in range(len(relus) + 1)}
    for number, name in enumerate(relus):
        setattr(model.features, name, forced[number])
    model.final_activation = forced[len(relus)]
    for iteration, conv, place, gate in near_zero.tolist():
        forced[conv].gates.setdefault(iteration, []).append((place, bool(gate)))
