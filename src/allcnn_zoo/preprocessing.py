"""What a published network expects to see: contrast-normalised, ZCA-whitened images.

The arithmetic is neon's (v2.3.0, ``CIFAR10(contrast_normalize=True, whiten=True)``), which is the
paper's preprocessing (section 3.1, after Goodfellow et al., "Maxout Networks"). An image is a row
of 3072 values in the order red plane, green plane, blue plane, each plane row by row, raw 0...255:

1. Global contrast normalisation (GCN): subtract the image's own mean, scale its norm to 55.
2. ZCA whitening: subtract the training set's mean image, multiply by the symmetric matrix
   W = E (D + 0.1)^(-1/2) E^T, where E D E^T is the covariance of the normalised training set.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from .architectures import CHANNELS, PIXELS, SIZE
from .errors import CheckpointError, ImageError
from .images import to_batch
from .storage import opened, write_atomically
from .weights import ASSETS

_METADATA_KEY = "allcnn_zoo.whitening"
_FORMAT_VERSION = 1
_SHIPPED = "whitening_cifar10.safetensors"
_SHAPES = {"mean": (PIXELS,), "upper_triangle": (PIXELS * (PIXELS + 1) // 2,)}


@dataclasses.dataclass(frozen=True)
class WhiteningParameters:
    """What the statistics were fitted with.

    Attributes:
        gcn_scale: Euclidean norm of an image after contrast normalisation.
        gcn_min_divisor: An image whose divisor falls below this (a constant one) is not scaled.
        zca_bias: Added to every eigenvalue of the covariance before its inverse square root.
        count: Number of images that the statistics were fitted on.
        data_sha256: SHA-256 of those images, uint8 (count, 3, 32, 32), in the order of their bytes
            when sorted, so that it names the set and not an order.
        layout: Order of the 3072 values.
    """

    gcn_scale: float = 55.0
    gcn_min_divisor: float = 1e-8
    zca_bias: float = 0.1
    count: int = 0
    data_sha256: str = ""
    layout: str = "RGB planes, row-major, raw 0..255"


def contrast_normalise(
    rows: npt.NDArray[np.float64], parameters: WhiteningParameters
) -> npt.NDArray[np.float64]:
    """GCN of float64 rows (N, 3072) with values 0...255; returns float64 (N, 3072)."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    divisor = np.sqrt((rows**2).sum(axis=1, keepdims=True)) / parameters.gcn_scale
    divisor[divisor < parameters.gcn_min_divisor] = 1.0
    normalised: npt.NDArray[np.float64] = rows / divisor
    return normalised


class Preprocessor(nn.Module):
    """GCN + ZCA whitening: uint8 images in, float32 network inputs out.

    ``forward`` takes uint8 RGB images ``(N, 3, 32, 32)`` or one image ``(3, 32, 32)``, values
    0...255, on any device, and returns float32 of the same shape, roughly within -14...14. (A PIL
    image of any size is taken as well, so that this can be the ``transform=`` of a data set.) It
    differs from neon's own float64 pipeline by at most 1e-4.

    Args:
        mean: Mean contrast-normalised training image, float32 (3072,).
        matrix: The ZCA matrix, float32 (3072, 3072), symmetric.
        parameters: What they were fitted with.

    Raises:
        ImageError: The input is not uint8 or not of that shape (when called).
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor, parameters: WhiteningParameters) -> None:
        super().__init__()
        self.gcn_scale = parameters.gcn_scale
        self.gcn_min_divisor = parameters.gcn_min_divisor
        self.fitted_with = parameters
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @classmethod
    def fit(
        cls, images: npt.NDArray[np.uint8], parameters: WhiteningParameters | None = None
    ) -> "Preprocessor":
        """Fit the statistics on training images, in float64 throughout.

        Args:
            images: uint8 RGB ``(N, 3, 32, 32)``, at least two.
            parameters: Scale and regularisation; neon's by default. The fields that describe the
                data are filled in.

        Raises:
            ImageError: `images` is something else.
        """
        if (
            images.dtype != np.uint8
            or images.shape[1:] != (CHANNELS, SIZE, SIZE)
            or len(images) < 2
        ):
            raise ImageError(
                f"statistics are fitted on uint8 images of shape (N, 3, 32, 32), N > 1;"
                f" these are {images.dtype} {images.shape}"
            )
        pixels = images.reshape(len(images), PIXELS)
        parameters = dataclasses.replace(
            parameters or WhiteningParameters(),
            count=len(images),
            data_sha256=digest_of_set(pixels),
        )
        rows = contrast_normalise(pixels.astype(np.float64), parameters)
        mean = rows.mean(axis=0)
        rows -= mean
        covariance = rows.T @ rows / (len(rows) - 1)
        covariance[np.diag_indices(PIXELS)] += parameters.zca_bias
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        matrix = (eigenvectors / np.sqrt(eigenvalues)) @ eigenvectors.T
        return cls(
            torch.from_numpy(mean.astype(np.float32)),
            torch.from_numpy(matrix.astype(np.float32)),
            parameters,
        )

    @classmethod
    def load(cls, path: str | Path) -> "Preprocessor":
        """Read statistics that `save` wrote.

        Raises:
            CheckpointError: The file is missing, damaged, or something else.
        """
        with opened(path, "whitening statistics") as file:
            metadata = (file.metadata() or {}).get(_METADATA_KEY)
            if metadata is None:
                raise CheckpointError(
                    "another program wrote it; `allcnn-zoo whiten fit` makes such statistics"
                )
            parameters = _parse_metadata(metadata)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != _SHAPES:
                raise CheckpointError(f"its arrays have shapes {shapes!r:.200}, not {_SHAPES}")
            mean, triangle = file.get_tensor("mean"), file.get_tensor("upper_triangle")
        return cls(mean, _from_upper_triangle(triangle), parameters)

    @classmethod
    def shipped(cls) -> "Preprocessor":
        """The statistics of the 50,000 CIFAR-10 training images that ship in this package."""
        return cls.load(ASSETS / _SHIPPED)

    def save(self, path: str | Path) -> None:
        """Write the statistics: mean and the upper triangle of the matrix, float32, about 19 MB.

        Raises:
            OSError: The file cannot be written; nothing is left behind.
        """
        metadata = {"format_version": _FORMAT_VERSION, **dataclasses.asdict(self.fitted_with)}
        row, column = torch.triu_indices(PIXELS, PIXELS)
        tensors = {"mean": self.mean.cpu(), "upper_triangle": self.matrix.cpu()[row, column]}
        write_atomically(path, save(tensors, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)}))

    def forward(self, images: Tensor | Image.Image) -> Tensor:
        """Whitened float32 images of the shape of `images`, uint8 (N, 3, 32, 32) or (3, 32, 32)."""
        if isinstance(images, Image.Image):  # as a data set gives it to its `transform=`
            images = to_batch(images)[0].to(self.mean.device)
        if not isinstance(images, Tensor):
            raise ImageError(
                f"the preprocessor takes a tensor or a PIL image, not a {type(images).__name__}:"
                " an array becomes a tensor by torch.from_numpy"
            )
        # Whitening amplifies rounding, so it stays float32 where the network runs in less.
        with torch.autocast(images.device.type, enabled=False):
            return (self.normalise(images) @ self.matrix).view(images.shape)

    def normalise(self, images: Tensor) -> Tensor:
        """Float32 rows (N, 3072), contrast-normalised and less the mean: ready for the matrix."""
        if images.dtype != torch.uint8 or images.shape[-3:] != (3, 32, 32) or images.dim() > 4:
            raise ImageError(
                "the preprocessor takes uint8 images (N, 3, 32, 32) or (3, 32, 32), values 0...255;"
                f" this is {images.dtype} {tuple(images.shape)}"
            )
        rows = images.flatten(-3).to(torch.float32)
        rows = rows - rows.mean(dim=-1, keepdim=True)
        divisor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True) / self.gcn_scale
        rows = rows / torch.where(divisor < self.gcn_min_divisor, 1.0, divisor)
        return rows - self.mean


def _from_upper_triangle(triangle: Tensor) -> Tensor:
    """The symmetric float32 (3072, 3072) matrix whose upper triangle, row by row, is given."""
    matrix = triangle.new_zeros(PIXELS, PIXELS)
    start = 0
    for row in range(PIXELS):
        stop = start + PIXELS - row
        matrix[row, row:] = triangle[start:stop]
        start = stop
    return matrix + matrix.triu(1).T


def digest_of_set(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of uint8 images (N, 3072) in sorted order: it names the set, whatever its order."""
    digest = hashlib.sha256()
    for row in sorted(row.tobytes() for row in pixels):
        digest.update(row)
    return digest.hexdigest()


def _parse_metadata(text: str) -> WhiteningParameters:
    try:
        metadata: dict[str, Any] = json.loads(text)
        version = metadata.pop("format_version")
        parameters = WhiteningParameters(**metadata)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from error
    if version != _FORMAT_VERSION:
        raise CheckpointError(f"its format version is {version!r:.20}, not {_FORMAT_VERSION}")
    return parameters
