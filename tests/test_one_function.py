"""Published weights give the same probabilities, whatever road an image takes."""

import os

import numpy as np
import pytest
import torch

import allcnn_zoo
from allcnn_zoo import CIFAR10, Classifier, export_model, list_weights, load
from allcnn_zoo.cifar import sample_images

COUNT = int(os.environ.get("ALLCNN_ZOO_TEST_IMAGES", "8"))
BUNDLED = [record.name for record in list_weights() if record.bundled]


@pytest.fixture(scope="module")
def images(request) -> np.ndarray:
    """Test images where they are at hand, else some that come with the package."""
    try:
        return CIFAR10(request.getfixturevalue("real_cifar10")).test.images[:COUNT]
    except pytest.skip.Exception:
        return sample_images().images[:COUNT]


def by_hand(model, images: np.ndarray) -> np.ndarray:
    batches = torch.from_numpy(images).split(100)
    with torch.inference_mode():
        return torch.cat([model(model.preprocess(b)).softmax(-1) for b in batches]).numpy()


@pytest.mark.parametrize("name", BUNDLED)
def test_every_road_leads_to_the_same_probabilities(name: str, images, tmp_path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    model = load(name)
    expected = by_hand(model, images)
    export_model(model, tmp_path / "model.onnx")
    export_model(model, tmp_path / "model.pt2")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(tmp_path / "model.pt2").module()
    fresh = allcnn_zoo.create_model(model.architecture.name, num_classes=model.num_classes)
    fresh.load_state_dict(model.state_dict())
    found = {
        "torch": Classifier(model, engine="torch").predict_proba(images),
        "openvino": Classifier(model, engine="openvino").predict_proba(images),
        ".onnx": session.run(None, {"images": images})[0],
        ".pt2": program(torch.from_numpy(images))[0].detach().numpy(),
        "state_dict": by_hand(fresh.eval(), images),
    }
    largest = {road: float(np.abs(result - expected).max()) for road, result in found.items()}
    assert max(largest.values()) < 1e-4, largest
