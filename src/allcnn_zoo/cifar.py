"""CIFAR-10 as arrays (Krizhevsky 2009): 50,000 training and 10,000 test images, ten classes.

The official archive holds Python 2 pickles. They are read by the same closed-world reader as
neon's files, so nothing in them is executed.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import hub, neon
from .architectures import CHANNELS, PIXELS, SIZE
from .errors import DatasetError, HubError, NeonError

ARCHIVE = hub.Resource(
    key="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    size=170498071,
)
FOLDER = "cifar-10-batches-py"
TRAINING_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCHES = ("test_batch",)
DATA_VARIABLE = "ALLCNN_ZOO_DATA"

# The largest batch is 31 MB, the whole folder 186 MB.
_UNPACKED_LIMIT = 400_000_000


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images.

    Attributes:
        images: uint8 (N, 3, 32, 32), RGB, 0...255.
        labels: int64 (N,), 0...9, in the order of `architectures.CIFAR10_CLASSES`.
        filenames: The original file name of each image, which identifies it across copies of the
            data set; empty strings where a copy has none.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    filenames: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


class CIFAR10:
    """The data set under a folder; the images are read when they are first asked for.

    Args:
        root: Folder that holds, or is to hold, ``cifar-10-batches-py`` (or that folder itself).
            The environment variable ``ALLCNN_ZOO_DATA`` by default, else ``data`` in the cache.
        download: Fetch the official archive (170 MB, verified by its SHA-256) if the folder is
            missing. A folder that is already there is used as it is: copies in another order, or
            with other digests, are fine.
        progress: Show a bar while downloading, if standard error is a terminal.

    Raises:
        DatasetError: The data set is not there and `download` is false.
        HubError: It cannot be downloaded.
    """

    def __init__(
        self, root: str | Path | None = None, *, download: bool = False, progress: bool = True
    ) -> None:
        self.root = _default_root() if root is None else Path(root).expanduser()
        self.folder = self.root if self.root.name == FOLDER else self.root / FOLDER
        if download and not self.folder.is_dir():
            _download(self.folder, progress=progress)
        if not self.folder.is_dir():
            raise DatasetError(
                f"there is no CIFAR-10 in {self.root}: no folder {FOLDER}. Fetch it with"
                f" `allcnn-zoo data --download`, or point {DATA_VARIABLE}, --data or root= at the"
                " folder that has it"
            )

    @functools.cached_property
    def train(self) -> Split:
        """The 50,000 training images.

        Raises:
            DatasetError: A batch is missing or damaged.
        """
        return self._read(TRAINING_BATCHES)

    @functools.cached_property
    def test(self) -> Split:
        """The 10,000 test images.

        Raises:
            DatasetError: The batch is missing or damaged.
        """
        return self._read(TEST_BATCHES)

    def _read(self, names: tuple[str, ...]) -> Split:
        splits = [_read_batch(self.folder / name) for name in names]
        return Split(
            np.concatenate([split.images for split in splits]),
            np.concatenate([split.labels for split in splits]),
            tuple(name for split in splits for name in split.filenames),
        )


def _default_root() -> Path:
    variable = os.environ.get(DATA_VARIABLE)
    return Path(variable).expanduser() if variable else hub.Cache().root / "data"


def _download(folder: Path, *, progress: bool) -> None:
    """Fetch and unpack the archive; `folder` appears complete or not at all."""
    archive = folder.parent / ARCHIVE.key
    try:
        hub.download(ARCHIVE, archive, progress=progress)
        hub.extract_tar(archive, folder.parent, max_size=_UNPACKED_LIMIT)
    except HubError:
        if not folder.is_dir():  # else another process was faster, and has tidied up
            raise
    archive.unlink(missing_ok=True)


def _read_batch(path: Path) -> Split:
    """One batch file, checked field by field."""
    try:
        batch: Any = neon.read_pickle(path)
    except NeonError as error:
        raise DatasetError(
            f"CIFAR-10 is damaged: {error}. Remove {path.parent} and fetch it again with"
            " `allcnn-zoo data --download`"
        ) from error
    fields = batch if isinstance(batch, dict) else {}
    pixels, labels = fields.get("data"), fields.get("labels")
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 2):
        raise DatasetError(f"{path} has no uint8 matrix of images under 'data'")
    if pixels.shape[1] != PIXELS or len(pixels) == 0:
        raise DatasetError(f"{path}: 'data' has shape {pixels.shape}; (N, {PIXELS}) is needed")
    if not (isinstance(labels, list) and len(labels) == len(pixels)):
        raise DatasetError(f"{path}: 'labels' is not a list of {len(pixels)} labels")
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise DatasetError(f"{path}: 'labels' are not all integers 0...9")
    names = fields.get("filenames", [""] * len(labels))
    if not (isinstance(names, list) and len(names) == len(labels)):
        raise DatasetError(f"{path}: 'filenames' is not a list of {len(labels)} names")
    return Split(
        pixels.reshape(-1, CHANNELS, SIZE, SIZE),
        np.array(labels, np.int64),
        tuple(str(name) for name in names),
    )
