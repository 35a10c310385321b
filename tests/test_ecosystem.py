"""The networks are good citizens of PyTorch and of what people put around it."""

import importlib
import pickle
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import allcnn_zoo
from allcnn_zoo import AllCNN, Architecture

from .conftest import EXAMPLES

SMALL = Architecture(widths=(8, 12))
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)


@pytest.fixture
def small() -> AllCNN:
    torch.manual_seed(0)
    return AllCNN(SMALL).eval()


@pytest.fixture(scope="module")
def bundled() -> AllCNN:
    return allcnn_zoo.load("cifar10_best")


class Whitened(Dataset):
    """Images that the workers of a DataLoader whiten."""

    def __init__(self, preprocess: torch.nn.Module) -> None:
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.preprocess(torch.from_numpy(IMAGES[index]))


def test_workers_of_a_dataloader_whiten(bundled) -> None:
    dataset = pickle.loads(pickle.dumps(Whitened(bundled.preprocess)))  # as those get it elsewhere
    batches = DataLoader(dataset, batch_size=2, num_workers=1)
    whitened = torch.cat(list(batches))
    expected = bundled.preprocess(torch.from_numpy(IMAGES))
    torch.testing.assert_close(whitened, expected, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_it_compiles_without_a_break_in_the_graph_and_trains(small, noise) -> None:
    # A backend of PyTorch's own that needs no C++ compiler.
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    logits = compiled(noise(2, 3, 32, 32))
    torch.testing.assert_close(logits, small(noise(2, 3, 32, 32)))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.fixture
def example(monkeypatch):
    """Runs an example as from the command line, without CIFAR-10."""

    def run(name: str, *arguments: str) -> None:
        monkeypatch.syspath_prepend(EXAMPLES.parent)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        importlib.import_module(name).main()

    yield run
    for name in ("small_set", "features_sklearn", "plain_pytorch"):
        sys.modules.pop(name, None)


def test_features_serve_scikit_learn(example, capsys) -> None:
    pytest.importorskip("sklearn")
    example("features_sklearn")
    assert "a pet or not: 100.0% right on 20 images" in capsys.readouterr().out


def test_a_plain_loop_trains_it(example, capsys) -> None:
    example("plain_pytorch", "--workers", "1")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if "%" in line] == ["before", "after"]
    assert any(line.startswith("step 1  loss") for line in lines)
