"""Images of any usual kind, made into what the networks were trained on: uint8 RGB 3x32x32."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor

from .architectures import SIZE
from .errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

#: One image: a file, a PIL image, numpy uint8 (H, W, 3), or torch uint8 (3, H, W).
ImageLike: TypeAlias = Union[str, Path, "PILImage", npt.NDArray[np.uint8], Tensor]
#: Several: a sequence of images of any size, numpy (N, H, W, 3) or torch (N, 3, H, W).
ImagesLike: TypeAlias = Sequence[ImageLike] | npt.NDArray[np.uint8] | Tensor


def is_single(images: ImageLike | ImagesLike) -> bool:
    """Whether this is one image rather than several."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= 3
    return isinstance(images, (str, Path)) or not isinstance(images, Iterable)


def is_batch_already(images: object) -> TypeGuard[npt.NDArray[np.uint8]]:
    """Whether `to_batch` would only wrap this array: uint8 (N, 3, 32, 32), in order, writeable."""
    return (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.shape[1:] == (3, SIZE, SIZE)
        and images.flags.carray
    )


def to_batch(images: ImageLike | ImagesLike) -> Tensor:
    """Images as one uint8 batch (N, 3, 32, 32).

    An image that is not 32x32 is cropped to its centre square and resized with antialiasing
    (bicubic); one that is 32x32 is passed on untouched. Grey images become RGB, transparency is
    dropped, and the orientation that a camera recorded is applied.

    Args:
        images: One image (gives N = 1) or several. Arrays in which the place of the colour channel
            is plain may have it first or last; where both could be meant, numpy's is last and
            torch's is first.

    Raises:
        ImageError: Something is not an image of a known kind, or a file cannot be read.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        batch = _channels_first(images)
        return _to_size(batch if batch.dim() == 4 else batch[None])
    if is_single(images):
        return _to_size(_decode(images)[None])
    tensors = [to_batch(image) for image in images]  # type: ignore[union-attr]
    if not tensors:
        raise ImageError("there are no images in this list")
    return torch.cat(tensors)


def _decode(image: Any) -> Tensor:
    """A file or PIL image as uint8 (3, H, W)."""
    from PIL import Image, ImageOps

    if not isinstance(image, (str, Path, Image.Image)):
        raise ImageError(
            f"a {type(image).__name__} is not an image; pass a path, a PIL image, a numpy"
            " uint8 array (H, W, 3) or a torch uint8 tensor (3, H, W)"
        )
    try:
        if isinstance(image, Image.Image):
            upright = ImageOps.exif_transpose(image)
        else:
            with Image.open(image) as file:
                upright = ImageOps.exif_transpose(file)
        return _channels_first(np.array(_with_eight_bits(upright).convert("RGB")))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they trip over
        raise ImageError(f"cannot read an image from {image}: {error}") from error


def _with_eight_bits(image: "PILImage") -> "PILImage":
    """Grey images of 16 bits scaled to 8, where Pillow would cut off all above 255.

    Mode ``"I"`` may hold either; values beyond 255 tell.
    """
    from PIL import Image

    if image.mode == "F":
        raise ImageError("a grey image of floating point; scale it to 0...255 as uint8 first")
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(
            f"a grey image with values {grey.min()}...{grey.max()}; scale it to 0...255 first"
        )
    is_deep = image.mode != "I" or grey.max() > 255
    return Image.fromarray((grey >> 8 if is_deep else grey).astype(np.uint8))


def _channels_first(array: npt.NDArray[Any] | Tensor) -> Tensor:
    """A uint8 array as a tensor (3, H, W) or (N, 3, H, W); grey becomes RGB."""
    if array.dtype not in (np.uint8, torch.uint8):
        raise ImageError(
            f"images are uint8 with values 0...255; this array is {array.dtype}."
            " Images scaled to 0...1 go back by (images * 255).round() as uint8"
        )
    if isinstance(array, Tensor):
        tensor = array
    else:  # torch warns of arrays that must not be written to, such as those of mapped files
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if tensor.dim() not in (2, 3, 4) or 0 in tensor.shape:
        raise ImageError(
            f"an array of shape {tuple(array.shape)} is not an image or a batch of them"
        )
    if tensor.dim() == 2:
        return tensor.expand(3, *tensor.shape)
    first, last = tensor.shape[-3] == 3, tensor.shape[-1] in (1, 3, 4)
    if last and not (first and isinstance(array, Tensor)):
        tensor = tensor[..., :3].movedim(-1, -3)
    if tensor.shape[-3] not in (1, 3):
        raise ImageError(f"an array of shape {tuple(array.shape)} has no colour channel of 3")
    return tensor if tensor.shape[-3] == 3 else tensor.expand(*tensor.shape[:-3], 3, -1, -1)


def _to_size(batch: Tensor) -> Tensor:
    """The centre square of uint8 (N, 3, H, W), resized to 32x32 with antialiasing."""
    height, width = batch.shape[-2:]
    if height == width == SIZE:
        return batch
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = batch[..., top : top + side, left : left + side].float()
    resized = F.interpolate(square, size=(SIZE, SIZE), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
