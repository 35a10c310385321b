"""The file of a rescued neon network: its arrays as safetensors, its description in the header.

It is not a weights file of ours: it holds any network, and only those who know it can use it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from .errors import CheckpointError
from .storage import from_json, to_json, write_atomically

#: Where the header has the description, as one JSON value.
METADATA_KEY = "neon_network"
_FORMAT_VERSION = 1
_MOST_DIMENSIONS = 64  # numpy's


def save(
    path: str | Path, arrays: Mapping[str, npt.NDArray[np.generic]], description: Mapping[str, Any]
) -> None:
    """Write arrays and description to `path`, completely or not at all.

    The same arguments give the same bytes.

    Args:
        path: Destination, usually ``*.safetensors``; replaced if it exists.
        arrays: Arrays by name, of any number type.
        description: JSON values.

    Raises:
        CheckpointError: The description is larger than the format allows.
        OSError: The file cannot be written; nothing is left behind.
    """
    header = {"format_version": _FORMAT_VERSION, **description}
    text = to_json(header, sort_keys=True, separators=(",", ":"))
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        content = to_bytes(contiguous, {METADATA_KEY: text})
    except SafetensorError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    write_atomically(path, content)


def read_description(path: str | Path) -> dict[str, Any] | None:
    """The description in a rescued file; None for a safetensors file of another kind.

    Raises:
        CheckpointError: The file is missing or damaged, or its description is.
    """
    try:
        if not Path(path).is_file():  # opening a fifo would wait for somebody to write to it
            raise CheckpointError("there is no such file")
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        description = None if text is None else from_json(text)
        if description is not None and not _is_layer(description):
            raise CheckpointError("its description is damaged")
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return description


def _is_layer(value: object) -> bool:
    """Whether a description can be read as one: the header may come from anywhere."""
    if not isinstance(value, dict):
        return False
    texts = (value.get("name"), value.get("type"), value.get("neon_name", ""))
    parts = {key: value.get(key) for key in ("settings", "arrays", "layers")}
    match parts:
        case {"settings": dict() | None, "arrays": dict(arrays)} if _are_texts(texts):
            layers = parts["layers"]
            return (
                all(map(_is_array, arrays.values()))
                and isinstance(layers, list)
                and all(map(_is_layer, layers))
            )
    return False


def _are_texts(values: tuple[object, ...]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_array(value: object) -> bool:
    match value:
        case {"shape": list(shape), "dtype": str()}:
            sane = len(shape) <= _MOST_DIMENSIONS
            return sane and all(type(extent) is int and 0 <= extent < 2**63 for extent in shape)
    return False
