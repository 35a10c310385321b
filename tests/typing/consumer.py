"""A program that uses every public name, for mypy --strict and pyright: it is never run.

`assert_type` fails where an editor would show another type than the documentation promises.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import allcnn_zoo
from allcnn_zoo import (
    CIFAR10,
    CIFAR100,
    AllCNN,
    AllCNNZooError,
    Architecture,
    Classifier,
    Evaluation,
    FeatureMap,
    Metadata,
    Prediction,
    Preprocessor,
    Weights,
    architectures,
    checkpoint,
    errors,
    export,
    hub,
    huggingface,
    neon,
    training,
)


def networks(pixels: Tensor) -> None:
    model = allcnn_zoo.allcnn_c(pretrained=True)
    for each in (
        allcnn_zoo.allcnn_a(),
        allcnn_zoo.allcnn_b(num_classes=5),
        allcnn_zoo.create_model("convpool_cnn_b", widths=(8, 12)),
        allcnn_zoo.load("neon_e350"),
        allcnn_zoo.fold_batch_norm(AllCNN(Architecture(), batch_norm=True)),
        huggingface.from_pretrained(Path("folder")),
        allcnn_zoo.load("mine.safetensors"),
        model,
    ):
        assert_type(each, AllCNN)
    assert_type(model.preprocess, nn.Module)
    assert_type(model.forward_features(pixels), Tensor)
    assert_type(model.forward_head(pixels, pre_logits=True), Tensor)
    assert_type(model.num_classes, int)
    assert_type(model.get_classifier(), nn.Conv2d)
    assert_type(Preprocessor.shipped(), Preprocessor)
    assert_type(allcnn_zoo.__version__, str)


def names() -> None:
    assert_type(allcnn_zoo.list_models("*_c"), list[str])
    assert_type(allcnn_zoo.list_weights(), list[Weights])
    assert_type(allcnn_zoo.get_weights("neon_e350").metrics, Mapping[str, Any])
    assert_type(allcnn_zoo.download("neon_e350"), Path)
    assert_type(architectures.CIFAR10_CLASSES.index("cat"), int)
    assert_type(hub.Cache().root, Path)


def predictions(pixels: Tensor, arrays: npt.NDArray[np.uint8]) -> None:
    classifier = Classifier.from_pretrained("allcnn_c", device=torch.device("cpu"))
    assert_type(classifier("cat.png"), Prediction)
    assert_type(classifier(Path("cat.png")).label, str)
    assert_type(classifier(["cat.png", "dog.png"]), list[Prediction])
    assert_type(classifier(arrays), Prediction | list[Prediction])
    assert_type(classifier(pixels, top_k=3), Prediction | list[Prediction])
    assert_type(classifier.predict_proba(pixels), npt.NDArray[np.float32])
    assert_type(classifier.classes, tuple[str, ...])


def figures(classifier: Classifier) -> None:
    test = CIFAR10("data").test
    assert_type(CIFAR100().classes, tuple[str, ...])
    assert_type(test.images, npt.NDArray[np.uint8])
    result = allcnn_zoo.evaluate(classifier, test.images, test.labels)
    assert_type(result, Evaluation)
    assert_type(result.per_class, dict[str, float])


def explanations(model: AllCNN, pixels: Tensor) -> None:
    assert_type(allcnn_zoo.explain(model, pixels, "cat", method="guided"), Tensor)
    assert_type(allcnn_zoo.explain(model, "cat.png", FeatureMap("conv3", 5)), Tensor)


def files(model: AllCNN) -> None:
    assert_type(allcnn_zoo.convert_neon("old.p", "new.safetensors"), Metadata)
    assert_type(allcnn_zoo.rescue_neon("old.p", "new.safetensors"), Mapping[str, Any])
    assert_type(checkpoint.read_metadata("mine.safetensors"), Metadata)
    assert_type(huggingface.push_to_hub(model, "owner/name"), str)
    assert_type(allcnn_zoo.export_model(model, "model.onnx"), export.Exported)
    allcnn_zoo.to_onnx(model)
    assert_type(neon.read_model("old.p"), neon.NeonModel)
    assert_type(allcnn_zoo.train(training.RECIPES["best"], out="run"), dict[str, Any])


def failures() -> None:
    try:
        networks(torch.zeros(1, 3, 32, 32))
    except errors.HubError as error:
        family: AllCNNZooError = error
        raise SystemExit(1) from family
