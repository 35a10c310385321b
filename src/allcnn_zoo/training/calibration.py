"""Accuracy of the trained network, and the temperature that calibrates its probabilities."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..classifier import Classifier
from ..evaluation import negative_log_likelihood, summarize
from ..model import AllCNN


def probabilities(model: AllCNN, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Class probabilities, float32 (N, classes), of uint8 images (N, 3, 32, 32)."""
    return Classifier(model, engine="torch").predict_proba(images, progress=True)


def fit_temperature(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The divisor of the logits that maximizes the likelihood of the right classes, to 0.01."""
    candidates: list[float] = np.arange(0.3, 3.0, 0.01).tolist()
    best = min(candidates, key=lambda t: negative_log_likelihood(soften(probabilities, t), labels))
    return round(best, 2)


def soften(probabilities: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """The probabilities from the same logits at another temperature than 1."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    softened: npt.NDArray[np.float32] = torch.from_numpy(logits).softmax(dim=1).numpy()
    return softened


def metrics(
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    temperature: float,
) -> dict[str, Any]:
    """Accuracy and calibration at a temperature, and the calibration without it, as JSON values.

    The accuracy of a class without images is None.
    """
    before = summarize(probabilities, labels, classes, seconds=0)
    after = summarize(soften(probabilities, temperature), labels, classes, seconds=0).to_json()
    del after["seconds"]
    return {**after, "nll_before_temperature": before.nll, "ece_before_temperature": before.ece}


def metrics_with_mirror(
    model: AllCNN,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    temperature: float,
) -> dict[str, Any]:
    """`metrics` of a network, and its accuracy when averaged with the mirror images."""
    straight = probabilities(model, images)
    mirrored = probabilities(model, np.ascontiguousarray(images[..., ::-1]))
    averaged = ((straight + mirrored).argmax(axis=1) == labels).mean()
    values = metrics(straight, labels, classes, temperature)
    return {**values, "flip_averaged_accuracy": float(averaged)}
