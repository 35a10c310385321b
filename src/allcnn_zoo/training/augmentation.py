"""The views of a training: which images, in which order, shifted, flipped, whitened, cropped.

All randomness in an epoch derives from the seed and the number of the epoch, so an interrupted run
continues as if it had not stopped.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import TrainingError
from ..preprocessing import Preprocessor
from .recipes import Recipe

# First words of the seeds, one for each thing that is random.
ORDER, CROP, DROPOUT, INITIALIZATION = range(4)

_SPLIT_SEED = 1412


def derive(*words: int) -> int:
    """A seed for PyTorch that depends on all words."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def split_indices(count: int, holdout: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The images to train on and those to hold out, the same in every run."""
    if not 0 <= holdout < count:
        raise TrainingError(f"cannot hold out {holdout} of {count} training images")
    order = np.random.RandomState(_SPLIT_SEED).permutation(count)
    return np.sort(order[holdout:]), np.sort(order[:holdout])


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over N images: the indices of each batch, and what happens to each image."""

    batches: list[npt.NDArray[np.int64]]
    shifts: npt.NDArray[np.int64]  # (N, 2), pixels down and right
    flipped: npt.NDArray[np.bool_]  # (N,)


def plan_epoch(recipe: Recipe, count: int, seed: int, epoch: int) -> Epoch:
    """Order, shifts and flips of `count` images in an epoch (counted from 0)."""
    if count < recipe.batch_size:
        raise TrainingError(f"{count} images do not fill a batch of {recipe.batch_size}")
    random = np.random.default_rng([seed, ORDER, epoch])
    order = random.permutation(count)
    shifts = random.integers(-recipe.shift, recipe.shift, (count, 2), endpoint=True)
    if recipe.order == "wrapping":
        order = wrapping_order(count, recipe.batch_size, epoch)
    # Shuffled images that do not fill a batch are left out of this epoch.
    whole = order[: len(order) - len(order) % recipe.batch_size]
    batches = np.split(whole, len(whole) // recipe.batch_size)
    flipped = np.zeros(count, np.bool_)
    if recipe.flips == "alternating":  # a coin for each image once, then every other epoch
        first = np.random.default_rng([seed, ORDER]).integers(0, 2, count, dtype=np.uint8)
        flipped = (first + epoch) % 2 == 1
    return Epoch(batches, shifts, flipped)


def wrapping_order(count: int, batch_size: int, epoch: int) -> npt.NDArray[np.int64]:
    """Neon's order: that of the files, with a short last batch filled up from the start.

    The next epoch begins after the images that filled it up, or where this one began if the last
    batch was full. (So with 50,000 images in batches of 128, epochs finally begin at image 80, and
    the first 80 are never used again.)
    """
    start = 0
    for _ in range(epoch):
        # An exact fit leaves the start as it is.
        start = (start - count) % batch_size or start
    batches = -(-(count - start) // batch_size)
    return np.arange(start, start + batches * batch_size, dtype=np.int64) % count


def augment(
    images: Tensor, shifts: npt.NDArray[np.int64], flipped: npt.NDArray[np.bool_]
) -> Tensor:
    """Shift each of the images (N, 3, 32, 32), its border reflected; mirror it where `flipped`."""
    last = images.shape[-1] - 1
    position = np.arange(last + 1)
    # What lies off the image comes back as if mirrors stood at its first and last pixels.
    rows, columns = (last - np.abs(last - np.abs(position - s[:, None])) for s in shifts.T)
    columns = np.where(flipped[:, None], columns[:, ::-1], columns)
    row = on_device(rows, images.device)[:, None, :, None]
    column = on_device(columns, images.device)[:, None, None, :]
    return images.gather(2, row.expand_as(images)).gather(3, column.expand_as(images))


def on_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """`values` as a tensor on the device, without waiting for its current work."""
    return torch.from_numpy(values).to(device, non_blocking=True)


class Whitening:
    """The network's preprocessing for batches; matrix product and result have type `dtype`."""

    def __init__(self, preprocess: Preprocessor, dtype: torch.dtype) -> None:
        self.normalize, self.matrix = preprocess.normalize, preprocess.matrix.to(dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """Whitened images, channels-last (N, 3, 32, 32), of uint8 images of that shape."""
        rows = self.normalize(images.to(self.matrix.device)).to(self.matrix.dtype)
        whitened = rows @ self.matrix
        return whitened.view(images.shape).contiguous(memory_format=torch.channels_last)


def resolution(recipe: Recipe, progress: float) -> int:
    """Pixels that the network sees when this fraction of the training is done."""
    return [pixels for start, pixels in recipe.resolutions if progress >= start][-1]


def cut_out(images: Tensor, side: int, random: np.random.Generator) -> Tensor:
    """Blank a square somewhere in each of (N, 3, H, W), in place: zero is gray when whitened."""
    if side:
        size = images.shape[-1]
        top, left = random.integers(0, size - side, (2, len(images), 1), endpoint=True)
        position = np.arange(size)
        rows, columns = ((start <= position) & (position < start + side) for start in (top, left))
        square = on_device(rows[:, None, :, None] & columns[:, None, None, :], images.device)
        images.masked_fill_(square, 0)
    return images


def crop(images: Tensor, pixels: int, random: np.random.Generator) -> Tensor:
    """One random square window for a whole batch of (N, 3, H, W)."""
    top, left = random.integers(0, images.shape[-1] - pixels, 2, endpoint=True)
    return images[:, :, top : top + pixels, left : left + pixels]
