"""Reading and writing files: validated when read, written completely or not at all.

A safetensors file of ours carries one strict JSON value in its header.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from .errors import AllCNNZooError, CheckpointError, printable, quote

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]
else:
    Array = Any  # for `typing.get_type_hints`, without importing numpy

#: Where the header of a rescued neon network has its description. It is no weights file.
RESCUED_KEY = "neon_network"

_MOST_BYTES = 4 << 30
_MOST_LEVELS = 100  # of lists and mappings; ours have five, and deeper ones would exhaust the stack

_TEMPORARY = re.compile(r"\.partial-([0-9a-f]{12})-([0-9]{1,9})-[0-9a-f]{16}(\..*)?", re.DOTALL)
_LONGEST_SUFFIX = 40  # with it, a temporary name stays below the 143 bytes of the strictest disks
_WORTH_KEEPING = 1 << 20
_ABANDONED_AFTER = 24 * 3600.0
_unfinished: set[Path] = set()  # of this process
_WRITE_FAILED = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def expanded(path: str | Path) -> Path:
    """`path` with a leading ``~`` replaced; unchanged, and so missing, if there is no such home."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises RuntimeError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` completely or not at all, replacing what was there.

    Raises:
        OSError: The file cannot be written; `path` is as it was and nothing is left behind.
    """
    path = expanded(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # a directory has its own error
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with temporary(path.parent) as fresh:
        try:
            fresh.write_bytes(content)
            publish(fresh, path)
        except OSError as error:  # name the file that the caller knows
            raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def temporary(folder: Path, suffix: str = "", sha256: str | None = None) -> Iterator[Path]:
    """A new path in `folder` for a file or a folder, which is removed at the end.

    The suffix is for writers that look at it. If the file is to have the digest `sha256`, an
    unfinished one of a mebibyte or more is kept, and is at the path that the next call gives.
    """
    if len(os.fsencode(suffix)) > _LONGEST_SUFFIX:
        suffix = ""
    if sha256 is not None:
        suffix = f".of-{sha256[:24]}{suffix}"
    process = os.getpid()
    path = folder / f".partial-{_habitat()}-{process}-{secrets.token_hex(8)}{suffix}"
    _unfinished.add(path)
    try:
        for part in _abandoned(folder) if sha256 is not None else []:
            if part.name.endswith(suffix) and _is_resumable(part):
                with contextlib.suppress(OSError):  # another process was faster
                    part.rename(path)
                    break
        yield path
    finally:
        if process == os.getpid():  # else this is a forked child, and the file is its parent's
            _discard(path)
            _unfinished.discard(path)


def publish(path: Path, destination: Path) -> None:
    """Move a finished file to `destination` in one step that also survives a power failure."""
    sync(path)
    path.replace(destination)
    sync(destination.parent)


def sync(path: Path) -> None:
    """Force the content of a file or folder to the disk, if the file system supports that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # network file systems answer EINVAL and more; the data is written
        if error.errno in _WRITE_FAILED or not path.exists():
            raise


def sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`; files still under way are not touched."""
    for path in _abandoned(folder):
        _discard(path)


def _discard(path: Path) -> None:
    """Remove a temporary file that is not resumable; ignore it if that fails."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif not _is_resumable(path):
            path.unlink()


def _is_resumable(path: Path) -> bool:
    with contextlib.suppress(OSError):
        facts = path.lstat()
        # Through a link that somebody planted, another file would be continued or emptied.
        is_plain = stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1
        is_large = facts.st_size >= _WORTH_KEEPING
        return is_plain and is_large and ".of-" in path.name and not _is_old(path)
    return False


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > _ABANDONED_AFTER


def _abandoned(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if _is_abandoned(path)]
    return []


def _is_abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match[1] != _habitat() or os.name != "posix":
        return _is_old(path)
    process = int(match[2])
    if process == os.getpid():
        return path not in _unfinished
    try:
        os.kill(process, 0)
    except OSError as error:  # a process of another user forbids it, and runs
        return isinstance(error, ProcessLookupError)
    return False


@cache
def _habitat() -> str:
    """Identify the boot and the process namespace: a process number is unique only within both."""
    facts = [os.uname().nodename if hasattr(os, "uname") else ""]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text("utf-8"))
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(facts).encode("utf-8", "replace")).hexdigest()[:12]


def to_json(value: Any, **options: Any) -> str:
    """Write a value as strict JSON, or raise a `CheckpointError`; options as in `json.dumps`."""
    try:
        text = json.dumps(value, default=_without_wrapping, allow_nan=False, **options)
        from_json(text)  # so that nothing is written that cannot be read again
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"provenance and metrics hold JSON values only: {error}") from error
    return text


def _without_wrapping(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def from_json(text: str) -> Any:
    """Parse JSON from an untrusted file; a `CheckpointError` if it is invalid or nested deeply."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from error
    level: list[Any] = [[value]]
    for _ in range(_MOST_LEVELS):
        inside = [each.values() if type(each) is dict else each for each in level]
        level = [each for values in inside for each in values if type(each) in (dict, list)]
        if not level:
            return value
    raise CheckpointError(f"its header is damaged: more than {_MOST_LEVELS} levels of nesting")


def _finite(text: str) -> float:
    """A number of JSON, which has neither NaN nor infinity: `to_json` could not write them."""
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(f"{text:.20} is not a finite number")


@contextlib.contextmanager
def opened(path: str | Path, what: str) -> "Iterator[tuple[dict[str, Array], dict[str, str]]]":
    """Read a safetensors file, which should hold `what`: arrays by name, and texts by key.

    Errors here and in the ``with`` block become a `CheckpointError` that names the file. It is read
    rather than mapped, because a mapped file that shrinks ends the process.
    """
    # Not needed to write a file or to fetch one.
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with _reading(path, what) as file:
        content = file.read()
        texts = _parse_header(content, len(content)).get("__metadata__", {})
        try:
            arrays = load(content)
        except SafetensorError as error:
            raise CheckpointError(f"it is damaged: {printable(error, 200)}") from None
        except KeyError as error:
            raise CheckpointError(f"it has numbers of type {error}, which numpy lacks") from None
        yield arrays, texts


def read_header(path: str | Path, what: str = "a header") -> dict[str, Any]:
    """The JSON header of a safetensors file, or a `CheckpointError`; the tensors are not read.

    It has ``dtype``, ``shape`` and ``data_offsets`` by tensor, and texts in ``__metadata__``.
    """
    with _reading(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        rest = file.read(min(size, int.from_bytes(start, "little")))
        return _parse_header(start + rest, size)


def read_texts(path: str | Path, what: str) -> dict[str, str]:
    """The text values in the header of a safetensors file, as `read_header` finds them."""
    texts: dict[str, str] = read_header(path, what).get("__metadata__", {})
    return texts


@contextlib.contextmanager
def _reading(path: str | Path, what: str) -> Iterator[BinaryIO]:
    try:
        file_path = expanded(path)
        if not file_path.is_file():  # opening a fifo would wait for a writer
            raise CheckpointError("there is no such file")
        with file_path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise CheckpointError(f"it has more than {_MOST_BYTES:,} bytes")
            yield file
    except (OSError, ValueError, AllCNNZooError) as error:
        raise CheckpointError(f"cannot read {what} from {printable(path)}: {error}") from error


def _parse_header(content: bytes, size: int) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    if length > size - 8:
        raise CheckpointError("it is not a safetensors file, or it is cut off")
    header = from_json(content[8 : 8 + length].decode())
    if not isinstance(header, dict):
        raise CheckpointError("its header is damaged: it is not a JSON object")
    for name, tensor in header.items():
        match tensor:
            case {"dtype": str(), "shape": list(shape), "data_offsets": [first, last]} if all(
                type(number) is int and 0 <= number < 2**63 for number in (*shape, first, last)
            ):
                pass
            case _ if name != "__metadata__":
                raise CheckpointError(f"its header is damaged: {quote(name)} is not a tensor")
    texts = header.get("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise CheckpointError("its header is damaged: __metadata__ does not hold texts")
    return header
