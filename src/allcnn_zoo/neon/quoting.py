"""Foreign values in error messages: always one short line of printable ASCII."""

import os

import numpy as np

_LONGEST = 60


def quote(value: object) -> str:
    """Describe a value that came out of a file, whatever it is, without echoing it unbounded.

    Args:
        value: Anything.

    Returns:
        The value itself if it is a short scalar, else its beginning or its kind and size.
    """
    if isinstance(value, str | bytes):
        whole = len(value) <= _LONGEST
        return ascii(value) if whole else f"{value[:_LONGEST]!a}... ({len(value)} long)"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def show_path(path: str | os.PathLike[str]) -> str:
    """Spell a path in a message: as it is, unless it would break the line or the terminal."""
    name = os.fspath(path)
    return name if name.isprintable() and len(name) <= 1024 else quote(name)
