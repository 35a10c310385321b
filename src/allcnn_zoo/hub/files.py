"""Unfinished files: hashed as they grow, published in one step, written by one process."""

import errno
import hashlib
import logging
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import CacheError
from .settings import CACHE_VARIABLE

HEAD_SIZE = 4096  # first bytes of a file that are kept, to tell an error page from the file
SOON = 2.0  # seconds of waiting after which the user is told why
_BLOCK = 1 << 20

_logger = logging.getLogger("allcnn_zoo.hub")

_DENIED = "Permission denied: ask its owner"
_IN_THE_WAY = "A file is in the way of a folder: remove it"
_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "The disk quota is used up: free some space",
    errno.EFBIG: "The file would be larger than this process may write: raise the limit",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "The file system is read-only: make it writable",
    errno.EISDIR: "A folder is in the way of a file: remove it",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
}


@contextmanager
def cache_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn an `OSError` from work on `path` into a `CacheError` that names the fix."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, f"{error.strerror or error}: look into it")
        raise CacheError(
            f"Cannot {doing} {path}. {advice}, or choose another folder ({CACHE_VARIABLE} names "
            "that of the cache)."
        ) from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def make_folder(root: Path, folder: Path) -> Path:
    """Create `folder`, `root` or two levels below it, as open to other users as `root` is."""
    with cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for each in (folder.parent, folder):
            if not each.is_dir():
                each.mkdir(exist_ok=True)
                with suppress(OSError):  # a file system without permissions, or another's folder
                    each.chmod(stat.S_IMODE(root.stat().st_mode))
    return folder


def publish(path: Path, destination: Path) -> None:
    """Publish a file: readable like its folder, writable for its owner only."""
    with suppress(OSError):  # a file system without permissions
        path.chmod(stat.S_IMODE(path.parent.stat().st_mode) & 0o444 | stat.S_IRUSR | stat.S_IWUSR)
    with cache_errors(destination):
        storage.publish(path, destination)


@contextmanager
def hold(path: Path, timeout: float, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, or go on without it if that fails or takes too long.

    At worst, two processes do the work inside. A user who has to wait is told what the other
    process is `doing`.
    """
    import filelock

    lock = None
    # Where a file system has no locks, filelock raises an OSError or warns.
    try:
        mode = path.parent.stat().st_mode & 0o666 | 0o600  # for all who may write in the folder
        with suppress(FileNotFoundError):
            if path.lstat().st_nlink > 1:  # planted: filelock before 4.2 would empty the other file
                path.unlink()
        lock = filelock.FileLock(path, mode=mode)
        try:
            lock.acquire(min(timeout, SOON))
        except filelock.Timeout:
            _logger.warning("waiting for another process, which %s", doing)
            lock.acquire(max(timeout - SOON, 0.0))
    except OSError as error:
        _logger.info("going on without the lock %s: %s", path, error)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
            with suppress(OSError):  # other processes notice that it is gone, or work twice
                path.unlink()


class PartialFile:
    """An unfinished file, hashed as it grows, with progress. Its methods raise a `CacheError`.

    `is_left_over` tells whether its first bytes are from an interrupted call.
    """

    def __init__(self, path: Path, progress: "Progress") -> None:
        self.progress = progress
        self.path = path
        self._begin()
        with cache_errors(path.parent):
            self._file = path.open("a+b")
            self._file.seek(0)
            while block := self._file.read(_BLOCK):
                self._count(block)
        self.is_left_over = self.size > 0

    def _begin(self) -> None:
        self.size = 0
        self.head = b""
        self.is_left_over = False
        self._digest = hashlib.sha256()

    def close(self) -> None:
        """Close the file and the bar."""
        self.progress.close()
        with suppress(OSError):  # a full disk may refuse the last bytes again
            self._file.close()

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, block: bytes, total: int | None = None) -> None:
        """Append `block`, of a file of `total` bytes, visible to other readers of the file."""
        with cache_errors(self.path.parent):
            self._file.write(block)
            self._file.flush()
        self._count(block)
        self.progress.show(self.size, total)

    def _count(self, block: bytes) -> None:
        self._digest.update(block)
        self.size += len(block)
        if len(self.head) < HEAD_SIZE:
            self.head = (self.head + block)[:HEAD_SIZE]

    def restart(self) -> None:
        """Begin again with an empty file."""
        with cache_errors(self.path.parent):
            self._file.seek(0)
            self._file.truncate()
        self._begin()

    def need_room(self, size: int) -> None:
        """Make sure that the file can grow to `size` bytes."""
        with suppress(OSError):  # some file systems do not tell
            disk = shutil.disk_usage(self.path.parent)
            missing = size - self.size
            if disk.free < missing and disk.total:
                raise CacheError(
                    f"Not enough space in {self.path.parent}: {missing:,} bytes are needed and "
                    f"{disk.free:,} are free. Free some space, or choose another folder "
                    f"({CACHE_VARIABLE} names that of the cache)."
                )


class Progress:
    """Progress of a transfer: a bar on a terminal, elsewhere a line after a long wait."""

    def __init__(self, label: str, *, wanted: bool) -> None:
        self._label = label
        self._wanted = wanted
        self._bar: Any = None
        # Standard error may be None or closed, and tqdm may be missing in a checkout.
        with suppress(AttributeError, ValueError, ImportError):
            if wanted and sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024)

    def close(self) -> None:
        """Remove the bar."""
        self._draw("close")

    def show(self, done: int, total: int | None) -> None:
        """Show `done` bytes of `total`; `done` goes back when a transfer starts over."""
        if self._bar is not None:
            self._bar.total = total
            self._draw("update", done - self._bar.n)

    def waiting(self, why: str) -> None:
        """Show why nothing arrives; an empty text removes the message."""
        if self._bar is not None:
            self._draw("set_postfix_str", why)
        elif why:
            level = logging.WARNING if self._wanted else logging.INFO
            _logger.log(level, "%s: %s", self._label, why)

    def _draw(self, method: str, *arguments: Any) -> None:
        try:
            if self._bar is not None:
                getattr(self._bar, method)(*arguments)
        except (OSError, ValueError):  # the terminal is gone; the transfer goes on
            self._bar = None
