"""How good the trained network is, and the temperature that makes its probabilities honest."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..architectures import CIFAR10_CLASSES
from ..classifier import Classifier
from ..evaluation import summarise
from ..model import AllCNN


def probabilities(model: AllCNN, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Class probabilities, float32 (N, 10), of uint8 images (N, 3, 32, 32)."""
    return Classifier(model).predict_proba(images, progress=True)


def fit_temperature(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The divisor of the logits that makes the right classes most likely, to 0.01."""
    candidates = np.arange(0.3, 3.0, 0.01)
    losses = [
        summarise(soften(probabilities, float(t)), labels, CIFAR10_CLASSES, seconds=0).nll
        for t in candidates
    ]
    return round(float(candidates[int(np.argmin(losses))]), 2)


def soften(probabilities: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """The probabilities that the same logits give at another temperature than 1."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    softened: npt.NDArray[np.float32] = torch.from_numpy(logits).softmax(dim=1).numpy()
    return softened


def figures(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], temperature: float
) -> dict[str, Any]:
    """Figures at a temperature, and the calibration without it, as JSON values.

    A class without images has no accuracy of its own: None.
    """
    before = summarise(probabilities, labels, CIFAR10_CLASSES, seconds=0)
    after = summarise(soften(probabilities, temperature), labels, CIFAR10_CLASSES, seconds=0)
    values = after.to_json()
    del values["seconds"]
    return {**values, "nll_before_temperature": before.nll, "ece_before_temperature": before.ece}


def figures_with_mirror(
    model: AllCNN,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    temperature: float,
) -> dict[str, Any]:
    """`figures` of a network, and its accuracy when averaged with the mirror images."""
    straight = probabilities(model, images)
    mirrored = probabilities(model, np.ascontiguousarray(images[..., ::-1]))
    averaged = ((straight + mirrored).argmax(axis=1) == labels).mean()
    return {**figures(straight, labels, temperature), "flip_averaged_accuracy": float(averaged)}
