"""What the whole suite shares: a private cache, small data, a local bucket, genuine files."""

import copy
import functools
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# One thread in each process that tests start: networks as narrow as theirs are done before others
# have woken up, and a worker of pytest-xdist runs on each core. Read when these are imported.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings

from allcnn_zoo.cli import main
from allcnn_zoo.preprocessing import PREPROCESSINGS

from .hub.faulty_server import FaultyServer, running
from .neon.writer import neon_file, python2_pickle

# How long an example takes says nothing on a machine that does other work meanwhile.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "images"
KEY = "cifar10_allcnn/cifar10_allcnn_e350.p"  # of the published file, in its bucket


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with those that take longest, so that no worker waits for another at the end."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(autouse=True)
def private_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache, data or mirrors, and none reaches the real network."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("ALLCNN_ZOO_CACHE", str(cache))
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "1")
    for name in ("ALLCNN_ZOO_MIRRORS", "ALLCNN_ZOO_DATA"):
        monkeypatch.delenv(name, raising=False)
    return cache


@pytest.fixture(scope="session", autouse=True)
def statistics_are_read_once() -> Iterator[None]:
    """Networks get copies of the whitening statistics: to read them takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name, read in PREPROCESSINGS.items():
            patch.setitem(PREPROCESSINGS, name, functools.partial(copy.deepcopy, read()))
        yield


@pytest.fixture(autouse=True)
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers run in PyTorch unless a test asks for more: to compile others takes time."""
    monkeypatch.setattr("allcnn_zoo.engines._RUNTIMES", ())


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of genuine neon files with neon's own outputs."""
    folder = os.environ.get("ALLCNN_ZOO_TEST_SHARED")
    if not folder:
        pytest.skip("ALLCNN_ZOO_TEST_SHARED is not set: no genuine neon files")
    return Path(folder)


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """Folder of the real CIFAR-10, and of CIFAR-100."""
    folder = os.environ.get("ALLCNN_ZOO_TEST_DATA")
    if not folder:
        pytest.skip("ALLCNN_ZOO_TEST_DATA is not set: no real CIFAR-10")
    return Path(folder)


@pytest.fixture(scope="session")
def small_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like CIFAR-10's, of 20 noise images a batch, and one like CIFAR-100's beside it."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)

    def write(folder: str, name: str, count: int, **classes: int) -> None:
        (root / folder).mkdir(exist_ok=True)
        labels = {
            key: [int(label) for label in random.integers(0, highest, count)]
            for key, highest in classes.items()
        }
        batch = {
            "batch_label": name,
            **labels,
            "data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
            "filenames": [f"{name}_{i}.png" for i in range(count)],
        }
        (root / folder / name).write_bytes(pickle.dumps(batch, protocol=2))

    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        write("cifar-10-batches-py", name, 20, labels=10)
    for name, count in (("train", 100), ("test", 20)):
        write("cifar-100-python", name, count, fine_labels=100, coarse_labels=20)
    return root


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A server on the loopback interface, whose answers the test scripts."""
    with running() as server:
        yield server


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder like the bucket, which holds a tiny network under the published key."""
    file = tmp_path / "mirror" / KEY
    file.parent.mkdir(parents=True)
    file.write_bytes(python2_pickle(neon_file()))
    return tmp_path / "mirror"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """Runs a command; gives its status, its output (parsed if JSON was asked for), its errors."""

    def run(*words: object) -> tuple[int, Any, str]:
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        out = json.loads(captured.out) if "--json" in words and status == 0 else captured.out
        return status, out, captured.err

    return run


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """Reproducible standard-normal tensors."""

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    return make
