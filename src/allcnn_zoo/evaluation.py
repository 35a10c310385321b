"""How good a classifier is: accuracy, confusion, and calibration of its probabilities."""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .classifier import Classifier
from .distributed import World
from .errors import AllCNNZooError, DatasetError, ImageError, check_name, printable
from .images import ImagesLike, find_images, is_single, to_batch
from .model import AllCNN

CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of one classifier on one set of labeled images.

    Attributes:
        images: Number of images.
        accuracy: Fraction of images whose most probable class is right (top-1).
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
    classifier: Classifier | AllCNN,
    images: ImagesLike,
    labels: npt.NDArray[np.integer[Any]] | Tensor | Sequence[int],
    *,
    progress: bool = False,
    world: World | None = None,
) -> Evaluation:
    """Classify labeled images, one center view each, and compare.

    Args:
        classifier: A classifier; a network becomes ``Classifier(network)``.
        images: uint8 (N, 3, 32, 32), N > 0, or several images of any kind that a classifier takes.
        labels: The right class of each image, integers (N,): an array, a tensor or a list.
        progress: Show a bar, if standard error is a terminal.
        world: The processes that share the work; each gets the same metrics. Alone by default.

    Raises:
        AllCNNZooError: `classifier` is neither a classifier nor a network with weights.
        ImageError: `images` is something else or empty, or has another length than `labels`.
        DatasetError: A label is not one of the classifier's classes.
        LostProcessError: Another process was lost.
    """
    if isinstance(classifier, AllCNN):
        classifier = Classifier(classifier)
    elif not isinstance(classifier, Classifier):
        what = type(classifier).__name__  # type: ignore[unreachable]
        raise AllCNNZooError(f"evaluate takes a Classifier or a network of ours, not a {what}")
    right = _checked_labels(labels, classifier)
    if is_single(images) or not hasattr(images, "__len__"):
        what = type(images).__name__
        raise ImageError(f"evaluate takes a batch or a sequence of images, not a {what}")
    if not 0 < len(images) == len(right):
        raise ImageError(f"{len(images)} images and {len(right)} labels cannot be compared")
    batch = images if isinstance(images, (np.ndarray, Tensor)) else to_batch(images)
    if len(batch) != len(right):
        raise ImageError("in a list, each image stands alone; join batches by np.concatenate")
    start = time.perf_counter()
    world = world or World()
    share = _share(len(batch), classifier.batch_size, world)
    mine = classifier.predict_proba(batch[share], progress=progress and world.rank == 0)
    probabilities = np.concatenate(world.gather(mine))
    seconds = time.perf_counter() - start
    return summarize(probabilities, right, classifier.classes, seconds=seconds)


def _checked_labels(labels: object, classifier: Classifier) -> npt.NDArray[np.int64]:
    """Labels as int64 (N,), each of which is one of the classifier's classes."""
    wanted = "labels are integers (N,), one class number for each image"
    try:
        found = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    except (RuntimeError, TypeError, ValueError) as error:  # unequal lengths, a sparse tensor
        raise DatasetError(f"{wanted}: {error}") from error
    if found.ndim != 1 or (found.dtype.kind not in "iu" and len(found)):
        raise DatasetError(f"{wanted}; these are {found.dtype} {found.shape}")
    count = len(classifier.classes)
    if len(found) and not 0 <= found.min() <= found.max() < count:
        raise DatasetError(
            f"the labels are {found.min()}...{found.max()}, and {printable(classifier.weights.tag)}"
            f" has {count} classes, 0...{count - 1}; choose images of these, or other"
            " weights"
        )
    return found.astype(np.int64)


def label_folder(
    folder: str | Path, classes: Sequence[str]
) -> tuple[list[Path], npt.NDArray[np.int64]]:
    """The image files of a folder that has one subfolder for each class, and their labels.

    Args:
        folder: Laid out as torchvision's ``ImageFolder`` wants it: ``folder/cat/anything.png``.
        classes: The classifier's class names; subfolders may differ from them in case.

    Returns:
        The files, and int64 (N,): the indices of their subfolders' names in `classes`.

    Raises:
        UnknownNameError: A subfolder is not named after a class.
        ImageError: There are no images.
    """
    folder = Path(folder)
    places = {name.casefold(): place for place, name in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    for each in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        if each.name.casefold() not in places:
            check_name(each.name, classes, f"class of these weights (a folder in {folder})")
        found = find_images(each)
        paths += found
        labels += [places[each.name.casefold()]] * len(found)
    if not paths:
        raise ImageError(
            f"{printable(folder)} has no folders of images named after the classes, for example"
            f" {printable(folder / classes[0])}"
        )
    return paths, np.array(labels, np.int64)


def _share(count: int, batch_size: int, world: World) -> slice:
    """This process's share of the images: whole batches, the same as in a single process."""
    batches = -(-count // batch_size)
    first, last = (batches * rank // world.size for rank in (world.rank, world.rank + 1))
    return slice(first * batch_size, last * batch_size)


def summarize(
    probabilities: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    seconds: float,
) -> Evaluation:
    """Compute the metrics from probabilities (N, classes)."""
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    with np.errstate(invalid="ignore"):  # a class without images has NaN
        per_class = confusion.diagonal() / confusion.sum(axis=1)
    accuracy = float((predicted == labels).mean())
    return Evaluation(
        images=len(labels),
        accuracy=accuracy,
        error=1 - accuracy,
        per_class=dict(zip(classes, per_class.tolist(), strict=True)),
        confusion=tuple(map(tuple, confusion.tolist())),
        nll=negative_log_likelihood(probabilities, labels),
        ece=expected_calibration_error(probabilities.max(axis=1), predicted == labels),
        seconds=seconds,
    )


def negative_log_likelihood(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> float:
    """Mean of the right classes, in nats; finite, as a probability of 0 counts as 1.2e-38."""
    likelihood = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())


def expected_calibration_error(
    confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]
) -> float:
    """Mean distance between confidence (N,), 0...1, and accuracy over bins of equal width."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, weights=confidence.astype(np.float64) - correct)
    return float(np.abs(gap).sum() / len(confidence))
