"""Deterministic pictures of many sizes and kinds, as people have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the tag of EXIF


def _smooth(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Coloured clouds with grain."""
    random = np.random.default_rng([width, height, channels])
    coarse = random.integers(0, 256, (5, 7, channels), dtype=np.uint8)
    planes = [Image.fromarray(coarse[..., c]).resize((width, height)) for c in range(channels)]
    grain = random.integers(-20, 21, (height, width, channels))
    return (np.stack(planes, axis=-1) + grain).clip(0, 255).astype(np.uint8)


def _rgb(width: int, height: int) -> Image.Image:
    return Image.fromarray(_smooth(width, height))


def _transparent(width: int, height: int) -> Image.Image:
    """A picture with colours under its fully transparent part."""
    array = _smooth(width, height, 4)
    array[: height // 3, :, 3] = 0
    return Image.fromarray(array)


def _turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"exif": exif}


PICTURES: dict[str, tuple[Callable[[], Image.Image], dict[str, Any]]] = {
    "wide.png": (lambda: _rgb(200, 64), {}),
    "tall.png": (lambda: _rgb(57, 131), {}),
    "tiny.png": (lambda: _rgb(9, 14), {}),
    "dot.png": (lambda: _rgb(1, 1), {}),
    "large.png": (lambda: _rgb(1500, 1001), {}),
    "grey.png": (lambda: _rgb(75, 90).convert("L"), {}),
    "palette.png": (lambda: _rgb(100, 100).quantize(16), {}),
    "transparent.png": (lambda: _transparent(100, 300), {}),
    "transparent_grey.png": (lambda: _transparent(40, 50).convert("LA"), {}),
    "turned.png": (lambda: _rgb(90, 120), _turned(6)),
    "mirrored.png": (lambda: _rgb(70, 33), _turned(5)),
    "transparent.webp": (lambda: _transparent(64, 48), {"lossless": True, "exact": True}),
    "still.gif": (lambda: _rgb(48, 64), {}),
    "plain.bmp": (lambda: _rgb(65, 43), {}),
    "photo.jpg": (lambda: _rgb(640, 480), {"quality": 90}),
    "turned.jpg": (lambda: _rgb(300, 200), _turned(8)),
}


def write(name: str, folder: Path) -> Path:
    make, options = PICTURES[name]
    make().save(folder / name, **options)
    return folder / name
