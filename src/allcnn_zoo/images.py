"""Images of any usual kind, converted to the input of the networks: uint8 RGB 3x32x32."""

import contextlib
import io
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .architectures import SIZE
from .errors import ImageError, printable
from .storage import expanded

#: One image: a file, its bytes, an open binary file, a PIL image, numpy uint8 (H, W, 3), or torch
#: uint8 (3, H, W).
ImageLike: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8] | Tensor
#: Several: a sequence of images of any size, numpy (N, H, W, 3) or torch (N, 3, H, W).
ImagesLike: TypeAlias = Sequence[ImageLike] | npt.NDArray[np.uint8] | Tensor

#: File formats that are opened, recognized by content. Pillow knows more, and some of its readers
#: run programs: PostScript's starts Ghostscript.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM")
#: Names by which `find_images` knows image files in a folder.
SUFFIXES = frozenset(
    ".png .jpg .jpeg .gif .bmp .tif .tiff .webp .avif .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
#: Larger images are refused before they are decoded. Decoding takes up to 20 bytes for each pixel.
MOST_PIXELS = 80_000_000

_FILES = (str, Path, bytes, bytearray, memoryview)
_MOST_BYTES = 2**28  # read from a stream that cannot seek


def is_single(images: object) -> bool:
    """Whether this is one image rather than several."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= 3
    is_file = isinstance(images, _FILES) or hasattr(images, "read")
    return is_file or not isinstance(images, Iterable)


def is_ready(images: object) -> TypeGuard[npt.NDArray[np.uint8] | Tensor]:
    """Whether engines take this batch unchanged: uint8 (N, 3, 32, 32).

    An array must be in C order and writeable; a tensor may have any layout.
    """
    if isinstance(images, np.ndarray):
        is_plain = images.dtype == np.uint8 and _is_plain(images)
    else:
        is_plain = isinstance(images, Tensor) and images.dtype == torch.uint8
    return is_plain and tuple(images.shape[1:]) == (3, SIZE, SIZE)  # type: ignore[attr-defined]


def _is_plain(array: npt.NDArray[Any]) -> bool:
    """Whether PyTorch takes this array: in C order, writeable, without negative strides.

    To numpy, an axis of one item is in order whatever its stride.
    """
    return array.flags.carray and all(stride >= 0 for stride in array.strides)


def find_images(folder: str | Path) -> list[Path]:
    """The image files below a folder, by their suffixes, sorted."""
    found = (path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.is_dir())


def to_batch(images: ImageLike | ImagesLike) -> Tensor:
    """Images as one uint8 batch (N, 3, 32, 32).

    An image that is not 32x32 is cropped to its center square and resized with antialiasing
    (bicubic); one that is 32x32 is not changed. Gray images become RGB, transparency is dropped,
    and the EXIF orientation is applied. For an animation, the first frame is used. Files with 16
    bits per value are scaled to 8; if all values are below 256, gray images are kept, and colors
    are refused.

    Args:
        images: One image (gives N = 1) or several. The color channel of an array may be first or
            last; if the shape allows both, it is last for numpy and first for torch.

    Raises:
        ImageError: Something is not an image of a known kind, has more than `MOST_PIXELS` pixels,
            or its file cannot be read or is truncated.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        batch = _channels_first(images)
        return _to_size(batch if batch.dim() == 4 else batch[None])
    if is_single(images):
        return _to_size(_decode(images)[None])
    tensors = [to_batch(image) for image in images]  # type: ignore[union-attr, arg-type]
    if not tensors:
        raise ImageError("there are no images in this list")
    return torch.cat(tensors)


def _decode(image: Any) -> Tensor:
    """A file or PIL image as uint8 (3, S, S): its center square."""
    if not (isinstance(image, (*_FILES, Image.Image)) or hasattr(image, "read")):
        raise ImageError(
            f"a {type(image).__name__} is not an image; pass a path, bytes, an open binary file,"
            " a PIL image, a numpy uint8 array (H, W, 3) or a torch uint8 tensor (3, H, W)"
        )
    try:
        if isinstance(image, Image.Image):
            _check(image)
            return _pixels(_upright(image.copy()))
        with _source(image) as source, Image.open(source, formats=FORMATS) as file:
            _check(file)
            return _pixels(_upright(file))
    except UnidentifiedImageError as error:
        reason = f"it is damaged, or in none of the formats {', '.join(FORMATS)}"
        raise ImageError(f"cannot read an image from {_name(image)}: {reason}") from error
    except Exception as error:  # Pillow's decoders raise exceptions of all kinds
        reason = getattr(error, "strerror", None) or str(error)  # an OSError's repeats the name
        raise ImageError(f"cannot read an image from {_name(image)}: {reason}") from error


class _Unmapped:
    """A file that Pillow reads: one that it maps, and that shrinks, would end the process."""

    def __init__(self, file: Any) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextlib.contextmanager
def _source(image: Any) -> Iterator[Any]:
    """A source that Pillow can open safely: no fifo, which blocks, and no endless stream."""
    if isinstance(image, (str, Path)):
        path = expanded(image)
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("it is not a regular file")
        with path.open("rb") as file:
            yield _Unmapped(file)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        yield io.BytesIO(image)
    elif getattr(image, "seekable", bool)():  # of text, Pillow says what is wrong
        yield image if isinstance(image, io.TextIOBase) else _Unmapped(image)
    else:
        content = image.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ImageError(f"it has more than {_MOST_BYTES:,} bytes")
        yield io.BytesIO(content)


def _name(image: Any) -> str:
    """The name of an image in messages."""
    if isinstance(image, (str, Path)):
        return printable(image)
    name = getattr(image, "name", None) or getattr(image, "filename", None)
    return printable(name) if isinstance(name, str) else f"this {type(image).__name__}"


def _check(image: Image.Image) -> None:
    """Refuse what Pillow would misread; it decodes an image when its pixels are asked for."""
    if image.format == "EPS":
        raise ImageError("it is PostScript, which is a program")
    if 0 in image.size:
        raise ImageError("it has no pixels")
    if image.width * image.height > MOST_PIXELS:
        raise ImageError(
            f"it has {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are read;"
            " scale it down first"
        )
    tags = getattr(image, "tag_v2", {})  # of a TIFF file, by the numbers of its specification
    bits, is_signed = tags.get(258, (8,))[0], tags.get(339, (1,))[0] == 2
    is_white_zero, is_planar = tags.get(262) == 0, tags.get(284) == 2
    if bits == 12 or (bits == 16 and (is_signed or is_white_zero or is_planar)):
        raise ImageError(
            "it has values of 12 bits, or of 16 that are signed, with white as 0, or in one plane"
            " per color; save it with 8 bits"
        )
    layout = str([tile[3] for tile in getattr(image, "tile", ())[:1]])  # gone once it is decoded
    if image.mode[0] != "I" and re.search(";16[BLN]|65535", layout):
        _check_high_bytes(image)


def _check_high_bytes(image: Image.Image) -> None:
    """Refuse colors of 8 bits in 16: Pillow keeps the high bytes only, and they are empty."""
    extrema: Any = zip(image.getbands(), image.getextrema(), strict=True)
    highest = max(most for band, (_, most) in extrema if band != "A")
    if highest <= (image.format == "PPM"):  # whose values are rounded to 0 or 1
        raise ImageError("its values have 16 bits and are all below 256; save it with 8 bits")


def _upright(image: Image.Image) -> Image.Image:
    """The same image, turned as its EXIF data asks, as far as these are sound."""
    image.load()  # here, so that no damage of the pixels is taken for one of EXIF
    with contextlib.suppress(Exception):  # Pillow turns it before it writes new EXIF data
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _pixels(image: Image.Image) -> Tensor:
    """The center square of an upright PIL image, uint8 (3, S, S).

    Gray values of 16 bits are scaled to 8, as Pillow would clip everything above 255. If none is
    above 255, the program that wrote the image stored 8 bits in 16.
    """
    if image.mode == "F":
        raise ImageError("a gray image of floating point; scale it to 0...255 as uint8 first")
    if image.mode[0] == "I":
        gray = np.asarray(image)
        lowest, highest = gray.min(), gray.max()
        if lowest < 0 or highest > 65535:
            raise ImageError(
                f"a gray image with values {lowest}...{highest}; scale it to 0...255 first"
            )
        image = Image.fromarray((gray >> 8 if highest > 255 else gray).astype(np.uint8))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    square.info.pop("transparency", None)  # it is dropped, and Pillow would warn
    return torch.from_numpy(np.array(square.convert("RGB"))).movedim(-1, 0)


def _channels_first(array: npt.NDArray[Any] | Tensor) -> Tensor:
    """A uint8 array as a tensor (3, H, W) or (N, 3, H, W); gray becomes RGB."""
    if array.dtype not in (np.uint8, torch.uint8):
        raise ImageError(
            f"images are uint8 with values 0...255; this array is {array.dtype}."
            " Images scaled to 0...1 go back by (images * 255).round() as uint8"
        )
    if isinstance(array, Tensor):
        tensor = array
    else:  # torch warns about read-only arrays, for example of mapped files
        tensor = torch.from_numpy(array if _is_plain(array) else array.copy())
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
        raise ImageError(f"an array of shape {tuple(array.shape)} has no color channel of 3")
    return tensor if tensor.shape[-3] == 3 else tensor.expand(*tensor.shape[:-3], 3, -1, -1)


def _to_size(batch: Tensor) -> Tensor:
    """The center square of uint8 (N, 3, H, W), resized to 32x32 with antialiasing."""
    height, width = batch.shape[-2:]
    if height == width == SIZE:
        return batch
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = batch[..., top : top + side, left : left + side]
    resized = [  # one color at a time, because floats take four times the memory
        F.interpolate(square[:, [c]].float(), size=(SIZE, SIZE), mode="bicubic", antialias=True)
        for c in range(square.shape[1])
    ]
    return torch.cat(resized, dim=1).round().clamp(0, 255).to(torch.uint8)
