"""Tiny trainings: seconds on one core, and yet every part of a real one."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from allcnn_zoo import engines
from allcnn_zoo.architectures import Architecture
from allcnn_zoo.preprocessing import Preprocessor
from allcnn_zoo.training import RECIPES, NeonMethod, Recipe, augmentation, loop
from allcnn_zoo.training.loop import Job

_SMALL = {"batch_size": 16, "ghost_batch": 8, "epochs": 3, "precision": "float32"}

TINY_MODERN = dataclasses.replace(
    RECIPES["best"],
    name="tiny_modern",
    architecture=Architecture(widths=(4, 6), final_relu=False),
    dropout=(0.1, 0.35),
    **_SMALL,
)
TINY_NEON = dataclasses.replace(
    RECIPES["neon"],
    name="tiny_neon",
    architecture=Architecture(widths=(4, 6), num_classes=16),
    # Wider than neon's 0.05, so that something reaches the end of so narrow a network.
    method=NeonMethod(init_scale=0.3, steps=(1, 2)),
    **_SMALL,
)


class Scaling:
    """In place of whitening, which takes most of a tiny training's time."""

    def __init__(self, _: object, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (images.to(self.dtype) / 64 - 2).contiguous(memory_format=torch.channels_last)


def make_light(change: Callable[[object, str, object], None] = setattr) -> None:
    """Leave out what a training does best at a larger size: here, and in processes started here."""
    torch.set_num_threads(1)  # a tiny network gains nothing from more
    change(loop, "usable_cores", lambda: 1)  # as many threads as a run ends with
    change(loop, "draw_curve", lambda *_: None)
    change(engines, "_RUNTIMES", ())
    change(augmentation, "Whitening", Scaling)
    statistics = Preprocessor.shipped()
    change(Preprocessor, "shipped", lambda: statistics)


@pytest.fixture(scope="package", autouse=True)
def light() -> Iterator[None]:
    """All trainings here are light ones."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        make_light(patch.setattr)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[TINY_MODERN, TINY_NEON], ids=["modern", "neon"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Each method, at a size for tests."""
    tiny: Recipe = request.param
    return tiny


@pytest.fixture(scope="module")
def make_job(small_cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """Jobs on 100 noise images, each in a new directory unless `out` names one."""

    def make(recipe: Recipe, out: Path | None = None, **changes: Any) -> Job:
        options = {"seed": 3, "holdout": 20, "resume": False, "test": False, **changes}
        return Job(recipe, small_cifar10, out or tmp_path_factory.mktemp("run"), **options)

    return make
