"""The graph is the function of the network, with nothing for a runtime's rounding to spoil."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allcnn_zoo import AllCNN, load
from allcnn_zoo.onnx_graph import import_package, to_onnx
from allcnn_zoo.preprocessing import contrast_normalize


@pytest.fixture(scope="module")
def best() -> AllCNN:
    return load("cifar10_best")


@pytest.fixture(scope="module")
def session(best):
    """The graph in float32, with one more output: what the whitening matrix is multiplied with."""
    graph = to_onnx(best)
    (product,) = (node for node in graph.graph.node if node.op_type == "MatMul")
    graph.graph.output.append(onnx.ValueInfoProto(name=product.input[0]))
    return import_package("onnxruntime").InferenceSession(graph.SerializeToString())


def in_float64(model: AllCNN, images: np.ndarray) -> np.ndarray:
    """The probabilities, preprocessed in double precision: of low contrast float32 loses some."""
    preprocess = model.preprocess
    rows = contrast_normalize(images.reshape(len(images), -1).astype(float), preprocess.fitted_with)
    whitened = (rows - preprocess.mean.numpy()) @ preprocess.matrix.double().numpy()
    with torch.no_grad():
        logits = model(torch.from_numpy(whitened).float().view(images.shape))
    return logits.softmax(dim=1).numpy()


@given(
    base=st.integers(0, 255),
    contrast=st.sampled_from([0, 1, 2, 5, 30, 255]),
    share=st.sampled_from([0.0, 0.0004, 0.01, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=25)
@example(base=128, contrast=1, share=0.0004, seed=999)
def test_it_is_the_network_for_images_of_any_contrast(
    best, session, base: int, contrast: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    noise = random.integers(-contrast, contrast, (1, 3, 32, 32), endpoint=True)
    noise *= random.random(noise.shape) < share
    images = np.clip(base + noise, 0, 255).astype(np.uint8)

    probabilities, factor = session.run(None, {"images": images})
    np.testing.assert_allclose(probabilities, in_float64(best, images), atol=5e-3)
    exact = torch.from_numpy(factor)
    assert torch.equal(exact, exact.bfloat16().float())
