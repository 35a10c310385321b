"""Weights of neon's prove themselves on arrival: which preprocessing fits, and whether any does."""

import warnings

import numpy as np
import pytest
import torch

import allcnn_zoo
from allcnn_zoo import load
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.checkpoint import read
from allcnn_zoo.cli import main
from allcnn_zoo.self_test import run_self_test, sample_images

from .conftest import ROOT
from .neon.writer import allcnn_file, python2_pickle

KEY = "cifar10_allcnn/cifar10_allcnn_e350.p"
TRAINED_ON = {"cifar10_gcn_zca": "after_1_5", "cifar10_gcn_zca_unregularized": "before_1_5"}


def narrow(preprocessing: str) -> dict[str, torch.Tensor]:
    """A narrow All-CNN-C that was trained for some minutes on images whitened in that way."""
    return read(ROOT / "tests" / "data" / f"narrow_{TRAINED_ON[preprocessing]}.safetensors").tensors


def pickled(tensors: dict[str, torch.Tensor]) -> bytes:
    """The weights as neon's file."""
    return python2_pickle(allcnn_file(tensors))


def pickled_early(tensors: dict[str, torch.Tensor], compat_mode: str) -> bytes:
    """The same as neon 1.1 wrote it: parameters only, and no word on dropout."""
    tree = allcnn_file(tensors, compat_mode=compat_mode)
    records = []
    for layer in tree["model"]["config"]["layers"]:
        if "params" in layer:
            kernel, bias = layer["params"]["W"], layer["params"]["weight_bias"]
            records.append({"params": {"W": kernel, "name": "ConvolutionLayer"}, "states": []})
            records.append({"params": {"W": bias, "name": "BiasLayer"}, "states": []})
    return python2_pickle({"layer_params_states": records, "epoch_index": 1})


def test_the_images_are_labeled_and_as_many_of_each_class() -> None:
    images, labels = sample_images()
    assert (images.shape, images.dtype) == ((400, 3, 32, 32), np.uint8)
    assert np.bincount(labels).tolist() == [40] * 10
    assert len(np.unique(images.reshape(400, -1), axis=0)) == 400


@pytest.mark.parametrize("preprocessing", TRAINED_ON)
def test_the_preprocessing_that_fits_is_found_and_recorded(tmp_path, preprocessing) -> None:
    (tmp_path / "old.p").write_bytes(pickled(narrow(preprocessing)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it fits, so there is nothing to warn of
        weights = load(tmp_path / "old.p").weights
    assert weights.preprocessing == preprocessing
    results = weights.provenance["self_test"]["results"]
    assert {result["preprocessing"] for result in results} == TRAINED_ON.keys()
    best = max(results, key=lambda result: result["accuracy"])
    assert best["preprocessing"] == preprocessing
    assert weights.metrics == {
        "self_test": {"images": 400, "accuracy": best["accuracy"], "nll": best["nll"]}
    }


@pytest.mark.parametrize("preprocessing", TRAINED_ON)
def test_all_roads_from_the_bucket_lead_through_the_test(
    tmp_path, serve, monkeypatch, preprocessing
) -> None:
    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_bytes(pickled(narrow(preprocessing)))
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", serve(tmp_path).url)
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    model = allcnn_zoo.allcnn_c(pretrained=True)
    assert model.weights.tag == "neon_e350"
    assert model.weights.preprocessing == preprocessing
    assert "top1" not in model.weights.metrics  # the published figure is not this file's
    images, labels = map(torch.from_numpy, sample_images())
    right = (model(model.preprocess(images)).argmax(1) == labels).float().mean()
    assert float(right) == pytest.approx(model.weights.metrics["self_test"]["accuracy"], abs=0.01)
    allcnn_zoo.convert_neon(tmp_path / KEY, tmp_path / "new.safetensors")
    assert load(tmp_path / "new.safetensors").weights.preprocessing == preprocessing


def test_the_list_shows_what_the_test_found(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_bytes(pickled(narrow("cifar10_gcn_zca")))
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
        if tensor.dim() == 4 and "conv" in name:
            flat = tensor.permute(1, 2, 3, 0).reshape(-1, len(tensor))
            tensors[name] = (
                flat.T.reshape(len(tensor), 3, 3, -1).permute(0, 3, 1, 2)
                if (tensor.shape[-1] == 3)
                else tensor
            )


def randomize(tensors: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    for tensor in tensors.values():
        if tensor.dim() == 4:
            tensor.copy_(torch.randn_like(tensor) * tensor.std())


@pytest.mark.parametrize("preprocessing", TRAINED_ON)
@pytest.mark.parametrize("spoil", [swap_classes, transpose_kernels, randomize])
def test_weights_that_do_not_classify_are_one_clear_warning(tmp_path, spoil, preprocessing) -> None:
    tensors = narrow(preprocessing)
    spoil(tensors)
    (tmp_path / "odd.p").write_bytes(pickled(tensors))
    with pytest.warns(UserWarning, match=r"odd\.p: these weights do not classify") as caught:
        weights = load(tmp_path / "odd.p").weights
    assert len(caught) == 1
    assert weights.provenance["self_test"]["fits"] is False


@pytest.mark.parametrize("compat_mode", ["neon", "caffe"])
def test_what_the_file_cannot_say_is_chosen_by_the_loss(tmp_path, compat_mode) -> None:
    tensors = narrow("cifar10_gcn_zca")
    (tmp_path / "old.p").write_bytes(pickled_early(tensors, compat_mode))
    with pytest.warns(UserWarning, match=r"does not record how dropout works|without their"):
        model = load(tmp_path / "old.p")
    assert bool(model.weights.provenance["dropout_folded"]) == (compat_mode == "neon")
    assert len(model.weights.provenance["self_test"]["results"]) == 4
    images = model.preprocess(torch.from_numpy(sample_images()[0][:8]))
    expected = allcnn_zoo.AllCNN(model.architecture).eval()
    expected.load_state_dict(tensors)
    torch.testing.assert_close(model(images), expected(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("outputs", [7, 11, 100])
def test_other_classes_cannot_be_tested_and_that_is_said(tmp_path, outputs: int) -> None:
    tensors = narrow("cifar10_gcn_zca")
    for part in ("weight", "bias"):
        tensor = tensors[f"classifier.{part}"]
        tensors[f"classifier.{part}"] = torch.cat([tensor] * 10)[:outputs]
    (tmp_path / "other.p").write_bytes(pickled(tensors))
    with pytest.warns(UserWarning, match="not CIFAR-10's"):
        weights = load(tmp_path / "other.p").weights
    assert weights.provenance["self_test"] is None


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("meta"),  # stands for a GPU
        torch.inference_mode,
    ],
    ids=["autocast", "device", "inference mode"],
)
def test_the_figures_are_the_same_in_any_context(tmp_path, context) -> None:
    (tmp_path / "old.p").write_bytes(pickled(narrow("cifar10_gcn_zca")))
    expected = load(tmp_path / "old.p").weights
    with context():
        model = load(tmp_path / "old.p")
    assert model.weights == expected


def test_the_best_of_several_is_taken_by_its_loss() -> None:
    architecture = allcnn_zoo.Architecture(widths=(16, 32))
    right = narrow("cifar10_gcn_zca_unregularized")
    loud = {name: 5 * tensor if "classifier" in name else tensor for name, tensor in right.items()}
    for order in ([right, loud], [loud, right]):
        tested = run_self_test(order, architecture)
        assert order[tested.candidate] is right
        assert tested.preprocessing == "cifar10_gcn_zca_unregularized"


def test_genuine_weights_of_neon_are_recognized(shared) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = load(shared / "neon" / "s3" / KEY).weights
    assert weights.preprocessing == "cifar10_gcn_zca"
    assert weights.metrics["self_test"]["accuracy"] > 0.7
    assert weights.classes == CIFAR10_CLASSES
