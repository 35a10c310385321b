"""The preprocessings that networks expect: contrast-normalized, ZCA-whitened images.

A weights file names its preprocessing; `PREPROCESSINGS` builds the module for each name. All of
them take uint8 images and return float32 network inputs. A `Preprocessor` with statistics of your
own needs no name: the weights file stores it.

The arithmetic is neon's (``CIFAR10(contrast_normalize=True, whiten=True)``), which is the paper's
preprocessing (section 3.1, after Goodfellow et al., "Maxout Networks"). An image is a row of 3072
values in the order red plane, green plane, blue plane, each plane row by row, raw 0...255:

1. Global contrast normalization (GCN): subtract the image's own mean, scale its norm to 55.
2. ZCA whitening: subtract the training set's mean image, multiply by the symmetric matrix
   W = E (D + b)^(-1/2) E^T, where E D E^T is the covariance of the normalized training set.

neon 1.5.0 and later regularize with b = 0.1 (commit 3e1781d of neon); versions before took b = 0.
The two whitenings correlate by 0.75 only, so weights trained on one lose 5 to 20 points on the
other.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn

from .architectures import PIXELS
from .errors import CheckpointError, ImageError, check_name
from .storage import from_json, opened, to_json, write_atomically
from .weights import ASSETS, GCN_ZCA, GCN_ZCA_UNREGULARIZED, OWN

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = Any  # for `typing.get_type_hints`

_METADATA_KEY = "allcnn_zoo.whitening"
_FORMAT_VERSION = 1
_SHAPES = {"mean": (PIXELS,), "upper_triangle": (PIXELS * (PIXELS + 1) // 2,)}


@dataclasses.dataclass(frozen=True)
class WhiteningParameters:
    """The settings and the data of a fit.

    Attributes:
        gcn_scale: Euclidean norm of an image after contrast normalization.
        gcn_min_divisor: An image whose divisor falls below this (a constant one) is not scaled.
        zca_bias: Added to every eigenvalue of the covariance before its inverse square root.
        count: Number of images that the statistics were fitted on.
        data_sha256: SHA-256 of those images, uint8 (count, 3, 32, 32), sorted by their bytes, so
            it does not depend on their order.
        layout: Order of the 3072 values.
    """

    gcn_scale: float = 55.0
    gcn_min_divisor: float = 1e-8
    zca_bias: float = 0.1
    count: int = 0
    data_sha256: str = ""
    layout: str = "RGB planes, row-major, raw 0..255"


def contrast_normalize(
    rows: npt.NDArray[np.float64], parameters: WhiteningParameters
) -> npt.NDArray[np.float64]:
    """GCN of float64 rows (N, 3072) with values 0...255; returns float64 (N, 3072)."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    divisor = np.sqrt((rows**2).sum(axis=1, keepdims=True)) / parameters.gcn_scale
    divisor[divisor < parameters.gcn_min_divisor] = 1.0
    normalized: npt.NDArray[np.float64] = rows / divisor
    return normalized


class Preprocessor(nn.Module):
    """GCN + ZCA whitening: uint8 images in, float32 network inputs out.

    ``forward`` takes uint8 RGB images ``(N, 3, 32, 32)`` or one image ``(3, 32, 32)``, values
    0...255, on any device, and returns float32 of the same shape, roughly within -14...14. (It
    also takes a PIL image of any size, so it can be the ``transform=`` of a data set.) It differs
    from neon's float64 pipeline by at most 1e-4.

    Args:
        mean: Mean contrast-normalized training image, float32 (3072,).
        matrix: The ZCA matrix, float32 (3072, 3072), symmetric.
        parameters: The settings and the data of their fit.

    Raises:
        ImageError: The input is not uint8 or has another shape (when called).
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor, parameters: WhiteningParameters) -> None:
        super().__init__()
        self.fitted_with = parameters
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @classmethod
    def fit(
        cls, images: npt.NDArray[np.uint8], parameters: WhiteningParameters | None = None
    ) -> "Preprocessor":
        """Fit the statistics on training images, in float64 throughout.

        A direction in which the regularized covariance is zero up to rounding holds only rounding
        errors and is dropped: W is the pseudo-inverse square root. Without regularization there is
        always one, because GCN subtracts each image's mean.

        Args:
            images: uint8 RGB ``(N, 3, 32, 32)``, at least two that differ.
            parameters: Scale and regularization; those of neon 1.5.0 and later by default. The
                fields that describe the data are filled in.

        Raises:
            ImageError: `images` is something else, or holds no variation to whiten.
        """
        if images.dtype != np.uint8 or images.shape[1:] != (3, 32, 32) or len(images) < 2:
            raise ImageError(
                f"statistics are fitted on uint8 images of shape (N, 3, 32, 32), N > 1;"
                f" these are {images.dtype} {images.shape}"
            )
        pixels = images.reshape(len(images), PIXELS)
        about_data: dict[str, Any] = {"count": len(images), "data_sha256": digest_of_set(pixels)}
        parameters = dataclasses.replace(parameters or WhiteningParameters(), **about_data)
        rows = contrast_normalize(pixels.astype(np.float64), parameters)
        mean = rows.mean(axis=0)
        rows -= mean
        if parameters.zca_bias == 0 and np.abs(rows).max() < 1e-9 * parameters.gcn_scale:
            raise ImageError(
                "these images do not differ after contrast normalization, so there is nothing to"
                " whiten; fit on other images or with a zca_bias above 0"
            )
        covariance = rows.T @ rows / (len(rows) - 1)
        covariance[np.diag_indices(PIXELS)] += parameters.zca_bias
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        kept = eigenvalues > eigenvalues[-1] * PIXELS * np.finfo(np.float64).eps
        eigenvectors = eigenvectors[:, kept]
        matrix = (eigenvectors / np.sqrt(eigenvalues[kept])) @ eigenvectors.T
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
        with opened(path, "whitening statistics") as (arrays, texts):
            if _METADATA_KEY not in texts:
                raise CheckpointError(
                    "another program wrote it; `allcnn-zoo whiten fit` makes such statistics"
                )
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return cls.from_tensors(tensors, texts[_METADATA_KEY])

    @classmethod
    def shipped(cls) -> "Preprocessor":
        """Statistics of CIFAR-10's 50,000 training images, as neon 1.5.0 and later fit them."""
        return cls.load(ASSETS / "whitening_cifar10.safetensors")

    @classmethod
    def shipped_unregularized(cls) -> "Preprocessor":
        """The statistics of the same images as neon before 1.5.0 fitted them, with b = 0."""
        return cls.load(ASSETS / "whitening_cifar10_unregularized.safetensors")

    def save(self, path: str | Path) -> None:
        """Write the statistics: mean and the upper triangle of the matrix, float32, about 19 MB.

        Raises:
            CheckpointError: They are none: other shapes or types, or not finite.
            OSError: The file cannot be written; nothing is left behind.
        """
        self.check()
        tensors, text = self.to_tensors()
        write_atomically(path, save(tensors, {_METADATA_KEY: text}))

    def check(self) -> None:
        """Raise a `CheckpointError` if a file of these statistics would be refused when read."""
        self.from_tensors(*self.to_tensors())

    def to_tensors(self) -> tuple[dict[str, Tensor], str]:
        """The statistics for a file: mean, half of the symmetric matrix, and their fit as JSON."""
        metadata = {"format_version": _FORMAT_VERSION, **dataclasses.asdict(self.fitted_with)}
        triangle = torch.cat([values[row:] for row, values in enumerate(self.matrix.cpu())])
        tensors = {"mean": self.mean.cpu(), "upper_triangle": triangle}
        return tensors, to_json(metadata, sort_keys=True)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], text: str) -> "Preprocessor":
        """The inverse of `to_tensors`; a `CheckpointError` if the statistics are damaged."""
        parameters = _parse_metadata(text)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != _SHAPES:
            raise CheckpointError(f"its arrays have shapes {shapes!r:.200}, not {_SHAPES}")
        for name, tensor in tensors.items():
            # With numpy, which does not start threads.
            if tensor.dtype != torch.float32 or not np.isfinite(tensor.numpy()).all():
                raise CheckpointError(f"{name} does not hold finite float32 numbers")
        matrix = torch.zeros(PIXELS, PIXELS, dtype=torch.float32, device="cpu")
        rows = torch.split(tensors["upper_triangle"], list(range(PIXELS, 0, -1)))
        for row, values in enumerate(rows):
            matrix[row, row:] = values
        return cls(tensors["mean"], matrix + matrix.triu(1).T, parameters)

    def forward(self, images: Tensor | PILImage) -> Tensor:
        """Whitened float32 images of the shape of `images`, uint8 (N, 3, 32, 32) or (3, 32, 32)."""
        if not isinstance(images, Tensor):
            from PIL import Image  # Pillow takes a third of the time that loading a model takes

            from .images import to_batch

            if not isinstance(images, Image.Image):
                raise ImageError(
                    "the preprocessor takes a tensor or a PIL image, not a"
                    f" {type(images).__name__}: an array becomes a tensor by torch.from_numpy"
                )
            # As a data set gives it to its `transform=`.
            images = to_batch(images)[0].to(self.mean.device)
        # Whitening amplifies rounding, so it stays float32 even if the network does not.
        with torch.autocast(images.device.type, enabled=False):
            return (self.normalize(images) @ self.matrix).view(images.shape)

    def normalize(self, images: Tensor) -> Tensor:
        """Float32 rows (N, 3072), contrast-normalized and less the mean: ready for the matrix."""
        if images.dtype != torch.uint8 or images.shape[-3:] != (3, 32, 32) or images.dim() > 4:
            raise ImageError(
                "the preprocessor takes uint8 images (N, 3, 32, 32) or (3, 32, 32), values 0...255;"
                f" this is {images.dtype} {tuple(images.shape)}"
            )
        rows = images.flatten(-3).to(torch.float32)
        rows = rows - rows.mean(dim=-1, keepdim=True)
        gcn = self.fitted_with
        divisor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True) / gcn.gcn_scale
        rows = rows / torch.where(divisor < gcn.gcn_min_divisor, 1.0, divisor)
        return rows - self.mean


def digest_of_set(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of uint8 images (N, 3072) in sorted order, so it does not depend on their order."""
    digest = hashlib.sha256()
    for row in sorted(row.tobytes() for row in pixels):
        digest.update(row)
    return digest.hexdigest()


def _parse_metadata(text: str) -> WhiteningParameters:
    try:
        metadata: dict[str, Any] = from_json(text)
        version = metadata.pop("format_version")
        parameters = WhiteningParameters(**metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from None
    if version != _FORMAT_VERSION:
        raise CheckpointError(f"its format version is {version!r:.20}, not {_FORMAT_VERSION}")
    numbers = (parameters.gcn_scale, parameters.gcn_min_divisor, parameters.zca_bias)
    if not all(type(number) in (int, float) and 0 <= number < 1e30 for number in numbers):
        raise CheckpointError(f"its header is damaged: {numbers!r:.200} are not plain numbers")
    return parameters


#: Every preprocessing that a weights file can name, and what makes the module.
PREPROCESSINGS: dict[str, Callable[[], nn.Module]] = {
    GCN_ZCA: Preprocessor.shipped,
    GCN_ZCA_UNREGULARIZED: Preprocessor.shipped_unregularized,
}


def get_preprocessing(name: str) -> nn.Module:
    """The preprocessing of this name: uint8 (N, 3, 32, 32) in, float32 of that shape out.

    Raises:
        UnknownNameError: There is none of this name.
    """
    check_name(name, PREPROCESSINGS, "preprocessing")
    with torch.inference_mode(mode=False):  # its tensors outlive the caller's context
        module = PREPROCESSINGS[name]()
    module.known_as = name, _numbers_of(module)  # type: ignore[assignment]  # no module
    return module


def name_of(module: nn.Module) -> str:
    """The name of a preprocessing, or ``"own"`` if it has none or was changed."""
    name, numbers = getattr(module, "known_as", (OWN, None))
    return name if numbers == _numbers_of(module) else OWN


def _numbers_of(module: nn.Module) -> Any:
    """Sums over the buffers' bits, which quickly show whether one was changed."""
    sums: list[int] = []
    for buffer in module.buffers():
        octets = buffer.detach().flatten().view(torch.uint8)
        whole = len(octets) // 8 * 8
        sums += int(octets[:whole].view(torch.int64).sum()), int(octets[whole:].sum())
    return sums, getattr(module, "fitted_with", None)
