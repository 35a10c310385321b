"""Weights of neon's prove themselves on arrival: which preprocessing fits, and whether any does."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

import allcnn_zoo
from allcnn_zoo import from_neon, load
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.checkpoint import Checkpoint, read
from allcnn_zoo.cifar import Split, sample_images
from allcnn_zoo.cli import main
from allcnn_zoo.from_neon import self_test

from .conftest import KEY, ROOT
from .neon.writer import allcnn_file, early_file_of, python2_pickle

TRAINED_ON = {"cifar10_gcn_zca": "after_1_5", "cifar10_gcn_zca_unregularized": "before_1_5"}


def narrow(preprocessing: str = "cifar10_gcn_zca") -> dict[str, torch.Tensor]:
    """A narrow All-CNN-C that was trained for some minutes on images whitened in that way."""
    return read(ROOT / "tests" / "data" / f"narrow_{TRAINED_ON[preprocessing]}.safetensors").tensors


@pytest.fixture
def legacy(tmp_path):
    """Writes weights as neon's file."""

    def write(tensors: dict[str, torch.Tensor]):
        (tmp_path / KEY).parent.mkdir(exist_ok=True)
        (tmp_path / KEY).write_bytes(python2_pickle(allcnn_file(tensors)))
        return tmp_path / KEY

    return write


def test_the_images_are_labeled_and_as_many_of_each_class() -> None:
    samples = sample_images()
    images, labels = samples.images, samples.labels
    assert (images.shape, images.dtype) == ((400, 3, 32, 32), np.uint8)
    assert np.bincount(labels).tolist() == [40] * 10
    assert len(np.unique(images.reshape(400, -1), axis=0)) == 400


@pytest.mark.parametrize("preprocessing", TRAINED_ON)
def test_all_roads_from_the_bucket_lead_through_the_test(
    tmp_path, legacy, monkeypatch, preprocessing
) -> None:
    path = legacy(narrow(preprocessing))
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it fits, so there is nothing to warn of
        model = allcnn_zoo.allcnn_c(pretrained=True)
        allcnn_zoo.convert_neon(path, tmp_path / "new.safetensors")
    weights = model.weights
    assert weights.tag == "neon_e350"
    assert weights.preprocessing == preprocessing
    assert load(tmp_path / "new.safetensors").weights.preprocessing == preprocessing
    results = weights.provenance["self_test"]["results"]
    assert {result["preprocessing"] for result in results} == TRAINED_ON.keys()
    best = max(results, key=lambda result: result["accuracy"])
    assert best["preprocessing"] == preprocessing
    # The published accuracy is not this file's.
    expected = {"images": 400, "accuracy": best["accuracy"], "nll": best["nll"]}
    assert weights.metrics == {"self_test": expected}
    samples = sample_images()
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    right = (model(model.preprocess(images)).argmax(1) == labels).float().mean()
    assert float(right) == pytest.approx(best["accuracy"], abs=0.01)


def test_the_list_shows_what_the_test_found(tmp_path, legacy, monkeypatch, capsys) -> None:
    legacy(narrow())
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(tmp_path))
    main(["list"])
    assert "self-test" not in capsys.readouterr().out
    allcnn_zoo.download("neon_e350")
    main(["list"])
    out = capsys.readouterr().out
    assert "allcnn_c.neon_e350: self-test on arrival 8" in out
    assert "preprocessing cifar10_gcn_zca" in out


def swap_classes(tensors: dict[str, torch.Tensor]) -> None:
    order = [0, 1, 2, 5, 4, 3, 6, 7, 8, 9]  # cat and dog
    for part in ("weight", "bias"):
        tensors[f"classifier.{part}"] = tensors[f"classifier.{part}"][order]


def transpose_kernels(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.shape[-2:] == (3, 3):
            flat = tensor.permute(1, 2, 3, 0).reshape(-1, len(tensor))
            tensors[name] = flat.T.reshape(len(tensor), 3, 3, -1).permute(0, 3, 1, 2)


def randomize(tensors: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    for tensor in tensors.values():
        if tensor.dim() == 4:
            tensor.copy_(torch.randn_like(tensor) * tensor.std())


@pytest.mark.parametrize("preprocessing", TRAINED_ON)
@pytest.mark.parametrize("spoil", [swap_classes, transpose_kernels, randomize])
def test_weights_that_do_not_classify_are_one_clear_warning(legacy, spoil, preprocessing) -> None:
    tensors = narrow(preprocessing)
    spoil(tensors)
    with pytest.warns(UserWarning, match=r"e350\.p: these weights do not classify") as caught:
        weights = load(legacy(tensors)).weights
    assert len(caught) == 1
    assert weights.provenance["self_test"]["fits"] is False


@pytest.mark.parametrize("compat_mode", ["neon", "caffe"])
def test_what_the_file_cannot_say_is_chosen_by_the_loss(tmp_path, compat_mode) -> None:
    tensors = narrow()
    tree = early_file_of(allcnn_file(tensors, compat_mode=compat_mode))
    (tmp_path / "old.p").write_bytes(python2_pickle(tree))
    with pytest.warns(UserWarning, match=r"does not record how dropout works|without their"):
        model = load(tmp_path / "old.p")
    assert bool(model.weights.provenance["dropout_folded"]) == (compat_mode == "neon")
    assert len(model.weights.provenance["self_test"]["results"]) == 4
    images = model.preprocess(torch.from_numpy(sample_images().images[:8]))
    expected = allcnn_zoo.AllCNN(model.architecture).eval()
    expected.load_state_dict(tensors)
    torch.testing.assert_close(model(images), expected(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("outputs", [7, 11, 100])
def test_other_classes_cannot_be_tested_and_that_is_said(legacy, outputs: int) -> None:
    tensors = narrow()
    for part in ("weight", "bias"):
        tensor = tensors[f"classifier.{part}"]
        tensors[f"classifier.{part}"] = torch.cat([tensor] * 10)[:outputs]
    with pytest.warns(UserWarning, match="not CIFAR-10's"):
        weights = load(legacy(tensors)).weights
    assert weights.provenance["self_test"] is None


def test_the_figures_are_the_same_in_any_context(legacy) -> None:
    path = legacy(narrow())
    expected = load(path).weights
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    for context in (autocast, torch.device("meta"), torch.inference_mode()):  # meta is for a GPU
        with context:
            model = load(path)
        assert model.weights == expected


def test_the_best_of_several_is_taken_by_its_loss() -> None:
    architecture = allcnn_zoo.Architecture(widths=(16, 32))
    metadata = allcnn_zoo.Metadata("any", architecture, CIFAR10_CLASSES)
    right = narrow("cifar10_gcn_zca_unregularized")
    loud = {name: 5 * tensor if "classifier" in name else tensor for name, tensor in right.items()}
    for order in ([right, loud], [loud, right]):
        best = min(
            self_test([Checkpoint(each, metadata) for each in order]), key=lambda each: each["nll"]
        )
        assert order[best["candidate"]] is right
        assert best["preprocessing"] == "cifar10_gcn_zca_unregularized"


def test_genuine_weights_of_neon_are_recognized(shared, monkeypatch) -> None:
    some = Split(*(each[::5] for each in dataclasses.astuple(sample_images())))
    monkeypatch.setattr(from_neon, "sample_images", lambda: some)
    monkeypatch.setattr(from_neon, "_inputs", from_neon._inputs.__wrapped__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = load(shared / "neon" / "s3" / KEY).weights
    assert weights.preprocessing == "cifar10_gcn_zca"
    assert weights.metrics["self_test"]["accuracy"] > 0.7
    assert weights.classes == CIFAR10_CLASSES
