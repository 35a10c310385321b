"""CIFAR-10 and CIFAR-100 as arrays (Krizhevsky 2009): 50,000 training and 10,000 test images each.

The official archives hold Python 2 pickles. The reader for neon's files reads them, so nothing in
them is executed.
"""

import dataclasses
import functools
import os
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import hub, neon
from .architectures import (
    CHANNELS,
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    CIFAR100_COARSE_CLASSES,
    PIXELS,
    SIZE,
)
from .errors import DatasetError, HubError, NeonError, quote
from .storage import expanded, opened, temporary
from .weights import ASSETS

DATA_VARIABLE = "ALLCNN_ZOO_DATA"


@dataclasses.dataclass(frozen=True)
class Split:
    """Labeled images.

    Attributes:
        images: uint8 (N, 3, 32, 32), RGB, 0...255.
        labels: int64 (N,), the number of each image's class among the data set's `classes`.
        filenames: The original file name of each image, which identifies it across copies of the
            data set; empty strings where a copy has none.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    filenames: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


class CIFAR10:
    """The data set in a folder; the images are read on first use.

    Args:
        root: The folder ``cifar-10-batches-py``, or the folder that contains it. By default that in
            the environment variable ``ALLCNN_ZOO_DATA``, else ``data`` in the cache.
        download: Fetch the official archive (170 MB, verified by its SHA-256) if the folder is
            missing. An existing folder is used as it is, even if its files have other digests.
        progress: Show a bar while downloading, if standard error is a terminal.

    Attributes:
        name: What recipes and ``--dataset`` call it.
        title: What people call it.
        classes: The names of the classes, in the order of the labels.

    Raises:
        DatasetError: The data set is not there and `download` is false.
        HubError: It cannot be downloaded.
    """

    name: ClassVar[str] = "cifar10"
    title: ClassVar[str] = "CIFAR-10"
    classes: ClassVar[tuple[str, ...]] = CIFAR10_CLASSES
    folder_name: ClassVar[str] = "cifar-10-batches-py"
    archive: ClassVar[hub.Resource] = hub.Resource(
        key="cifar-10-python.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        size=170498071,
    )
    _training_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{n}" for n in range(1, 6))
    _test_file: ClassVar[str] = "test_batch"
    _labels_key: ClassVar[str] = "labels"

    def __init__(
        self, root: str | Path | None = None, *, download: bool = False, progress: bool = True
    ) -> None:
        root = root or os.environ.get(DATA_VARIABLE)
        self.root = expanded(root) if root else hub.Cache().root / "data"
        named = self.root.name == self.folder_name
        self.folder = self.root if named else self.root / self.folder_name
        # Unlike Path's, this is False, and no error, for a name that is too long.
        if download and not os.path.isdir(self.folder):  # noqa: PTH112
            _download(self.archive, self.folder, progress=progress)
        if not os.path.isdir(self.folder):  # noqa: PTH112
            raise DatasetError(
                f"there is no {self.title} in {self.root}: no folder {self.folder_name}. Fetch it"
                f" with `allcnn-zoo data --dataset {self.name} --download`, or point"
                f" {DATA_VARIABLE}, --data or root= at the folder that has it"
            )

    @functools.cached_property
    def train(self) -> Split:
        """The 50,000 training images; a `DatasetError` if a batch is missing or damaged."""
        return self._read(*self._training_files)

    @functools.cached_property
    def test(self) -> Split:
        """The 10,000 test images; a `DatasetError` if the batch is missing or damaged."""
        return self._read(self._test_file)

    def _read(self, *names: str) -> Split:
        images, labels, filenames = zip(*(self._batch(self.folder / n) for n in names), strict=True)
        return Split(np.concatenate(images), np.concatenate(labels), sum(filenames, ()))

    def _batch(self, path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[str, ...]]:
        """Images, labels and names of one batch file, checked field by field."""
        try:
            batch: Any = neon.read_pickle(path)
        except NeonError as error:
            raise DatasetError(
                f"{self.title} is damaged: {error}. Remove {path.parent} and fetch it again with"
                f" `allcnn-zoo data --dataset {self.name} --download`"
            ) from error
        fields = batch if isinstance(batch, dict) else {}
        pixels: Any = fields.get("data")
        labels = fields.get(self._labels_key, ())
        is_matrix = isinstance(pixels, np.ndarray) and pixels.shape[1:] == (PIXELS,)
        if not is_matrix or pixels.dtype != np.uint8 or len(pixels) == 0:
            needed = f"a uint8 array of shape (N, {PIXELS})"
            raise DatasetError(f"{path}: 'data' is {quote(pixels)}, and not {needed}")
        names = fields.get("filenames", [""] * len(pixels))
        for key, values in ((self._labels_key, labels), ("filenames", names)):
            if not (isinstance(values, list) and len(values) == len(pixels)):
                raise DatasetError(f"{path}: {key!r} is not a list of {len(pixels)} values")
        if not all(type(label) is int and 0 <= label < len(self.classes) for label in labels):
            raise DatasetError(
                f"{path}: {self._labels_key!r} are not all integers 0...{len(self.classes) - 1}"
            )
        images = pixels.reshape(-1, CHANNELS, SIZE, SIZE)
        return images, np.array(labels, np.int64), tuple(map(str, names))


class CIFAR100(CIFAR10):
    """CIFAR-100, in ``cifar-100-python``; the rest is as in `CIFAR10`.

    Labels and `classes` are the 100 fine ones. ``np.take(CIFAR100.coarse_of, labels)`` gives the
    coarse ones.

    Attributes:
        coarse_classes: Names of the 20 coarse classes.
        coarse_of: For each fine class, the number of its coarse one.
    """

    name = "cifar100"
    title = "CIFAR-100"
    classes = CIFAR100_CLASSES
    coarse_classes = tuple(CIFAR100_COARSE_CLASSES)
    coarse_of = tuple(
        coarse
        for fine in CIFAR100_CLASSES
        for coarse, names in enumerate(CIFAR100_COARSE_CLASSES.values())
        if fine in names.split()
    )
    folder_name = "cifar-100-python"
    archive = hub.Resource(
        key="cifar-100-python.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        size=169001437,
    )
    _training_files = ("train",)
    _test_file = "test"
    _labels_key = "fine_labels"


def sample_images() -> Split:
    """Images that come with the package: 40 of each class from CIFAR-10's training images."""
    with opened(ASSETS / "samples_cifar10.safetensors", "sample images") as (arrays, _):
        labels = arrays["labels"].astype(np.int64)
        return Split(arrays["images"], labels, ("",) * len(labels))


DATASETS: dict[str, type[CIFAR10]] = {kind.name: kind for kind in (CIFAR10, CIFAR100)}


def dataset_of(classes: tuple[str, ...]) -> type[CIFAR10] | None:
    """The data set whose classes these are, if any; neon's networks may have more outputs."""
    kinds = DATASETS.values()
    return next((kind for kind in kinds if classes[: len(kind.classes)] == kind.classes), None)


def _download(record: hub.Resource, folder: Path, *, progress: bool) -> None:
    """Fetch and unpack an archive; `folder` appears complete or not at all."""
    archive = folder.parent / record.name
    try:
        hub.download(record, archive, progress=progress)
        with temporary(folder.parent) as aside, tarfile.open(archive) as tar:
            # Filters exist since Python 3.10.12 and 3.11.4; the archive's digest is known anyway.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(aside)  # noqa: S202
            (aside / folder.name).rename(folder)
        archive.unlink()
    except (HubError, OSError, tarfile.TarError) as error:
        if folder.is_dir():  # another process was faster, and has removed our files
            return
        if isinstance(error, HubError):
            raise
        raise DatasetError(f"cannot unpack {archive}: {error}") from error
