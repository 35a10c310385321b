"""Our files on disk: written completely or not at all, read through one guarded door.

A safetensors file of ours carries one strict JSON value in its header.
"""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import AllCNNZooError, CheckpointError

_MOST_LEVELS = 100  # of lists and mappings; ours have five, and deeper ones would exhaust the stack


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` completely or not at all, replacing what was there.

    Raises:
        OSError: The file cannot be written; `path` is as it was and nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # a directory has its own error
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a finished one gets the permissions of any other new file.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _umask() -> int:
    umask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(umask)
    return umask


def to_json(value: Any, **options: Any) -> str:
    """A value as strict JSON text; options are those of `json.dumps`.

    Raises:
        CheckpointError: There is something that JSON does not have.
    """
    try:
        return json.dumps(value, default=_without_wrapping, allow_nan=False, **options)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"provenance and metrics hold JSON values only: {error}") from error


def _without_wrapping(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def from_json(text: str) -> Any:
    """What a header says, which may come from anywhere.

    Raises:
        CheckpointError: It is not JSON, or nested without reason.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from error
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inside for each in level for inside in _inside(each)]
        if not level:
            return value
    raise CheckpointError(f"its header is damaged: more than {_MOST_LEVELS} levels of nesting")


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


@contextlib.contextmanager
def opened(path: str | Path, what: str) -> Iterator[Any]:
    """A safetensors file; whatever is wrong with it is one error that names it.

    Args:
        path: The file.
        what: What it should hold, for the message.

    Raises:
        CheckpointError: It is missing, no regular file, damaged, or found wrong by the caller.
    """
    try:
        # Opening a fifo would wait for a writer, and safetensors would hold up all threads.
        if not Path(path).is_file():
            raise CheckpointError("there is no such file")
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, ValueError, SafetensorError, AllCNNZooError) as error:
        raise CheckpointError(f"cannot read {what} from {path}: {error}") from error
