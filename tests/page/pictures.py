"""Deterministic pictures of many sizes and kinds, as people have them."""

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ORIENTATION = 0x0112  # the tag of EXIF


@functools.cache
def _smooth(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Colored clouds with grain."""
    random = np.random.default_rng([width, height, channels])
    coarse = random.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    planes = [Image.fromarray(coarse[..., c]).resize((width, height)) for c in range(channels)]
    grain = random.integers(-20, 21, (height, width, channels))
    return (np.stack(planes, axis=-1) + grain).clip(0, 255).astype(np.uint8)


def rgb(width: int, height: int) -> Image.Image:
    return Image.fromarray(_smooth(width, height))


def transparent(width: int, height: int) -> Image.Image:
    """A picture with colors under its fully transparent part."""
    array = _smooth(width, height, 4)
    array[: height // 3, :, 3] = 0
    return Image.fromarray(array)


def _turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"exif": exif}


def _turned_by_a_phone(orientation: int) -> dict[str, Any]:
    """The same as phones write it: most significant bytes first, and not as the first entry."""
    entries = [(0x010F, 2, 4, b"abc\0"), (ORIENTATION, 3, 1, struct.pack(">Hxx", orientation))]
    body = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return {"exif": b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + body + bytes(4)}


def _in_other_colors() -> dict[str, Any]:
    """A profile whose red is green, and which nobody should apply."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"-"), (b"gXYZ", b"rXYZ"), (b"-", b"gXYZ")):
        profile = profile.replace(old, new)
    return {"icc_profile": profile}


PICTURES: dict[str, tuple[Callable[[], Image.Image], dict[str, Any]]] = {
    "wide.png": (lambda: rgb(200, 64), {}),
    "tall.png": (lambda: rgb(57, 131), {}),
    "tiny.png": (lambda: rgb(9, 14), {}),
    "dot.png": (lambda: rgb(1, 1), {}),
    "large.png": (lambda: rgb(1500, 1001), {}),
    "grey.png": (lambda: rgb(75, 90).convert("L"), {}),
    "palette.png": (lambda: rgb(100, 100).quantize(16), {}),
    "transparent.png": (lambda: transparent(100, 300), {}),
    "transparent_grey.png": (lambda: transparent(40, 50).convert("LA"), {}),
    "turned.png": (lambda: rgb(90, 120), _turned(6)),
    "mirrored.png": (lambda: rgb(70, 33), _turned(5)),
    "transparent.webp": (lambda: transparent(64, 48), {"lossless": True, "exact": True}),
    "still.gif": (lambda: rgb(48, 64), {}),
    "plain.bmp": (lambda: rgb(65, 43), {}),
    "photo.jpg": (lambda: rgb(640, 480), {"quality": 90}),
    "other_colors.png": (lambda: rgb(120, 90), _in_other_colors()),
    "other_colors.jpg": (lambda: rgb(120, 90), _in_other_colors() | {"quality": 90}),
    "turned.webp": (lambda: rgb(90, 131), _turned(6) | {"lossless": True}),
    "turned.avif": (lambda: rgb(64, 96), _turned(6) | {"subsampling": "4:4:4"}),
    "transparent_turned.png": (lambda: transparent(301, 451), _turned(8)),
    "transparent_turned.webp": (
        lambda: transparent(64, 47),
        _turned(7) | {"lossless": True, "exact": True},
    ),
    "no_orientation.jpg": (lambda: rgb(90, 131), _turned(9)),
    "phone.jpg": (lambda: rgb(640, 481), _turned_by_a_phone(6)),
    **{f"turned_{n}.jpg": (lambda: rgb(300, 451), _turned(n)) for n in range(1, 9)},
    **{f"turned_{n}.png": (lambda: rgb(300, 451), _turned(n)) for n in (2, 4, 7)},
    **{f"turned_large_{n}.jpg": (lambda: rgb(1601, 1200), _turned(n)) for n in range(1, 9)},
}


def write(name: str, folder: Path) -> Path:
    """The file of a picture; what is there already is not written again."""
    path = folder / name
    if not path.exists():
        make, options = PICTURES[name]
        make().save(path, **options)
    return path
