"""Genuine neon files give neon's own outputs. Needs them: see CONTRIBUTING."""

import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allcnn_zoo.neon import inspect_pickle, read_model, read_pickle, rescue, to_module

from .trees import same


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("**/*.p"))
    assert files
    return files


def test_every_file_reads_as_python_reads_it(shared: Path) -> None:
    for path in _files(shared / "neon"):
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about Python 2's flags
            expected = pickle.load(file, encoding="latin1")
        assert same(read_pickle(path), expected), path
        assert inspect_pickle(path)["kind"] == "neon model", path


def test_every_number_of_every_file_is_rescued(shared: Path) -> None:
    for path in _files(shared / "neon"):
        model = read_model(path)
        network = rescue(model, states=True)
        rescued, stored = (
            np.sort(np.concatenate([array.ravel() for array in arrays]))
            for arrays in (network.arrays.values(), _arrays(model.layers))
        )
        np.testing.assert_array_equal(rescued, stored, err_msg=str(path))
        if network.description["has_architecture"]:
            assert network.description["not_understood"] == [], path
            assert not any(".neon." in name or ".raw." in name for name in network.arrays), path


def _arrays(layers: Any) -> Iterator[np.ndarray]:
    """All parameters and states of layers, those inside them included."""
    for layer in layers:
        yield from layer.params.values()
        yield from _within(layer.states)
        yield from _arrays(layer.layers)


def _within(states: Any) -> Iterator[np.ndarray]:
    for state in states:
        yield from [state] if isinstance(state, np.ndarray) else _within(state)


def test_what_python_2_and_3_wrote_has_the_same_names_and_description(shared: Path) -> None:
    folder = shared / "neon"
    twins = [(path, folder / "generic" / path.name) for path in _files(folder / "generic_py2")]
    twins += [
        (path, path.with_name(path.name.replace("py2", "py3")))
        for path in folder.glob("allcnn/allcnn_tiny_py2_*.p")
    ]
    for pair in twins:
        one, other = (rescue(read_model(path), states=True) for path in pair)
        assert one.arrays.keys() == other.arrays.keys(), pair
        assert one.description == other.description, pair


@torch.inference_mode()
def test_every_other_network_rebuilt_gives_neons_outputs_of_every_layer(shared: Path) -> None:
    for folder in ("generic", "generic_py2"):
        for path in _files(shared / "neon" / folder):
            reference = np.load(shared / "neon" / "generic" / f"{path.stem}_ref.npz")
            network = to_module(path)
            found: list[torch.Tensor] = []
            for layer in network.get_submodule("layers").children():
                layer.register_forward_hook(partial(_collect, found))
            found.append(network(torch.from_numpy(reference["input"])))
            names = [*sorted(name for name in reference if name.startswith("layer_")), "output"]
            for name, output in zip(names, found, strict=True):
                expected = reference[name]
                error = np.abs(output.numpy().reshape(expected.shape) - expected).max()
                assert error <= 1e-5 * np.abs(expected).max(), (path, name)


def _collect(outputs: list[torch.Tensor], _module: Any, _inputs: Any, output: torch.Tensor) -> None:
    outputs.append(output)


@torch.inference_mode()
def test_every_all_cnn_rebuilt_gives_neons_probabilities(shared: Path) -> None:
    folder = shared / "neon" / "allcnn"
    images = torch.from_numpy(np.load(folder / "input16.npz")["whitened"])
    for path in _files(folder):
        if "v1.1" in path.name:  # no network in the file
            continue
        expected = np.load(path.with_name(f"{path.stem}_ref.npz"))["softmax"]
        found = to_module(path)(images).flatten(1).numpy()
        assert np.abs(found - expected).max() < 1e-5, path


def test_batches_of_cifar_10_read_as_python_reads_them(real_cifar10: Path) -> None:
    folder = real_cifar10
    if (folder / "cifar-10-batches-py").is_dir():
        folder /= "cifar-10-batches-py"
    for name in ("test_batch", "data_batch_1", "batches.meta"):
        with (folder / name).open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pickle.load(file, encoding="latin1")
        assert same(read_pickle(folder / name), expected)
