"""Genuine neon files give neon's own outputs. Needs them: see CONTRIBUTING."""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from allcnn_zoo.errors import NotAllCNNError
from allcnn_zoo.neon import convert_allcnn, read_model, read_pickle, survey

from .forward import logits
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
        assert survey(path).is_safe, path


def test_every_all_cnn_gives_neons_probabilities(shared: Path) -> None:
    folder = shared / "neon" / "allcnn"
    images = np.load(folder / "input16.npz")["whitened"]
    for path in _files(folder):
        converted = convert_allcnn(read_model(path), keep_padding=True)
        expected = np.load(path.with_name(f"{path.stem}_ref.npz"))["softmax"]
        found = logits(converted, images).softmax(1).numpy()
        assert np.abs(found - expected).max() < 1e-5, path


def test_the_published_files_stand_in_gives_neons_probabilities(shared: Path) -> None:
    folder = shared / "neon"
    sample, reference = (np.load(folder / name) for name in ("whitened64.npz", "s3_reference.npz"))
    rows = {name: row for row, name in enumerate(reference["filenames"].tolist())}
    expected = reference["softmax"][[rows[name] for name in sample["filenames"].tolist()]]
    model = read_model(folder / "s3" / "cifar10_allcnn" / "cifar10_allcnn_e350.p")
    with torch.inference_mode():
        found = logits(convert_allcnn(model, keep_padding=True), sample["whitened"]).softmax(1)
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_every_other_network_is_refused_as_such(shared: Path) -> None:
    for folder in ("generic", "generic_py2"):
        for path in _files(shared / "neon" / folder):
            with pytest.raises(NotAllCNNError, match="a neon model, but not All-CNN-C"):
                convert_allcnn(read_model(path))


def test_provenance_is_plain_data(shared: Path) -> None:
    for path in _files(shared / "neon" / "allcnn"):
        provenance = convert_allcnn(read_model(path)).provenance
        assert json.loads(json.dumps(provenance)) == provenance


def test_batches_of_cifar_10_read_as_python_reads_them(real_cifar10: Path) -> None:
    folder = real_cifar10
    if (folder / "cifar-10-batches-py").is_dir():
        folder /= "cifar-10-batches-py"
    for name in ("test_batch", "data_batch_1", "batches.meta"):
        with (folder / name).open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pickle.load(file, encoding="latin1")
        assert same(read_pickle(folder / name), expected)
