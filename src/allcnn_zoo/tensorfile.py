"""Opening safetensors files: ours are read through this one guarded door."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import AllCNNZooError, CheckpointError


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
