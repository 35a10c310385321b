"""How good a classifier is: accuracy, confusion, and how far its probabilities can be believed."""

import dataclasses
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from .classifier import Classifier
from .distributed import World
from .errors import DatasetError, ImageError

CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of one classifier on one set of labelled images.

    Attributes:
        images: Number of images.
        accuracy: Fraction whose most probable class is the right one (top-1).
        error: ``1 - accuracy``, neon's "misclassification".
        per_class: The same fraction for each true class, NaN for a class without images.
        confusion: Rows are true classes, columns predicted ones; counts.
        nll: Mean negative log-likelihood of the right class, in nats.
        ece: Expected calibration error of the top class, 15 bins of equal width (Guo et al. 2017).
        seconds: Wall-clock time of classifying the images, preprocessing included.
    """

    images: int
    accuracy: float
    error: float
    per_class: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]
    nll: float
    ece: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values; the accuracy of a class without images is None."""
        per_class = {
            name: None if math.isnan(accuracy) else accuracy
            for name, accuracy in self.per_class.items()
        }
        return {**dataclasses.asdict(self), "per_class": per_class}


def evaluate(
    classifier: Classifier,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    progress: bool = False,
    world: World | None = None,
) -> Evaluation:
    """Classify labelled images, one centre view each, and compare.

    Args:
        classifier: What to judge.
        images: uint8 (N, 3, 32, 32), N > 0.
        labels: int64 (N,), the right class of each.
        progress: Show a bar, if standard error is a terminal.
        world: The processes that share the work; each gets the same figures. Alone by default.

    Raises:
        ImageError: `images` is something else, there are none, or not as many labels.
        DatasetError: A label is none of the classifier's classes.
        LostProcessError: Another process was lost.
    """
    if not 0 < len(images) == len(labels):
        raise ImageError(f"{len(images)} images and {len(labels)} labels cannot be compared")
    lowest, highest, count = labels.min(), labels.max(), len(classifier.classes)
    if not 0 <= lowest <= highest < count:
        raise DatasetError(
            f"the labels are {lowest}...{highest}, and {classifier.weights.tag} tells apart"
            f" {count} classes, 0...{count - 1}; choose images of these, or other weights"
        )
    start = time.perf_counter()
    world = world or World()
    share = _share(len(images), classifier.batch_size, world)
    mine = classifier.predict_proba(images[share], progress=progress and world.is_first)
    probabilities = np.concatenate(world.gather(mine))
    seconds = time.perf_counter() - start
    return summarise(probabilities, labels, classifier.classes, seconds=seconds)


def _share(count: int, batch_size: int, world: World) -> slice:
    """The images of this process, cut so that batches are those of a single process."""
    batches = -(-count // batch_size)
    first, last = (batches * rank // world.size for rank in (world.rank, world.rank + 1))
    return slice(first * batch_size, last * batch_size)


def summarise(
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    seconds: float,
) -> Evaluation:
    """Figures from probabilities (N, classes) that are already there."""
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    totals = confusion.sum(axis=1)
    accuracy = float((predicted == labels).mean())
    likelihood = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return Evaluation(
        images=len(labels),
        accuracy=accuracy,
        error=1 - accuracy,
        per_class={
            name: float(confusion[i, i] / totals[i]) if totals[i] else float("nan")
            for i, name in enumerate(classes)
        },
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        nll=float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean()),
        ece=expected_calibration_error(probabilities.max(axis=1), predicted == labels),
        seconds=seconds,
    )


def expected_calibration_error(
    confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]
) -> float:
    """Mean distance between confidence and accuracy over equal-width bins of confidence.

    Args:
        confidence: Probability of the predicted class, (N,), 0...1.
        correct: Whether the prediction was right, (N,).
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, weights=confidence.astype(np.float64) - correct)
    return float(np.abs(gap).sum() / len(confidence))
