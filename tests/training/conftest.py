"""Tiny trainings: seconds on one core, and yet every part of a real one."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from allcnn_zoo.architectures import Architecture
from allcnn_zoo.preprocessing import Preprocessor
from allcnn_zoo.training import RECIPES, NeonMethod, Recipe, loop
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


@pytest.fixture(scope="session")
def statistics() -> Preprocessor:
    """The whitening that ships, read once."""
    return Preprocessor.shipped()


@pytest.fixture(autouse=True)
def shared_statistics(statistics: Preprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a tiny training's time would go into reading them."""
    monkeypatch.setattr(Preprocessor, "shipped", lambda: statistics)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tiny network gains nothing from more, and loses much where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "usable_cores", lambda: 1)  # as many threads as a run ends with
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[TINY_MODERN, TINY_NEON], ids=["modern", "neon"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Each method, at a size for tests."""
    tiny: Recipe = request.param
    return tiny


@pytest.fixture
def make_job(small_cifar10: Path, tmp_path: Path) -> Callable[..., Job]:
    """Jobs on 100 noise images."""

    def make(recipe: Recipe, out: str = "run", **changes: Any) -> Job:
        options = {"seed": 3, "holdout": 20, "resume": False, "test": False, **changes}
        return Job(recipe, small_cifar10, tmp_path / out, **options)

    return make
