"""A few labeled images for the examples: from CIFAR-10, or views of the ten in examples/images.

The ten are enough to run an example in seconds, but far too few to learn from.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

import allcnn_zoo
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.images import to_batch

IMAGES = Path(__file__).parent / "images"

Labeled = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def small_set(
    training: int, test: int, data: str | None = None
) -> tuple[Labeled, Labeled, tuple[str, ...]]:
    """uint8 images (N, 3, 32, 32) and int64 labels to train on, others to test on; class names."""
    try:
        cifar10 = allcnn_zoo.CIFAR10(data)
    except allcnn_zoo.errors.DatasetError:
        print("no CIFAR-10 here (allcnn-zoo data --download), so these are views of ten images")
        return _views(40, seed=0), _views(20, seed=1), CIFAR10_CLASSES
    splits = (cifar10.train, training), (cifar10.test, test)
    first, second = ((split.images[:count], split.labels[:count]) for split, count in splits)
    return first, second, CIFAR10_CLASSES


def _views(count: int, seed: int) -> Labeled:
    """The ten images in turn, shifted by up to four pixels and mirrored at random."""
    ten = to_batch([IMAGES / f"{name}.png" for name in CIFAR10_CLASSES]).numpy()
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(ten)
    views = [
        np.roll(ten[label], random.integers(-4, 5, 2), axis=(1, 2))[..., :: random.choice((-1, 1))]
        for label in labels
    ]
    return np.stack(views), labels
