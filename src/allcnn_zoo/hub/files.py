"""Files that are there whole or not at all, whoever else is at work in the same folder."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from ..errors import CacheError
from .diagnosis import HEAD_SIZE
from .settings import CACHE_VARIABLE

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 1 << 20
_TEMPORARY = re.compile(r"\.partial-([0-9a-f]{12})-([0-9]{1,9})-[0-9a-f]{16}(\..*)?", re.DOTALL)
_ABANDONED_AFTER = 24 * 3600.0

_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "The disk quota is used up: free some space",
    errno.EFBIG: "The file would be larger than this process may write: raise the limit",
    errno.EACCES: "Permission denied: ask its owner",
    errno.EPERM: "Permission denied: ask its owner",
    errno.EROFS: "The file system is read-only: make it writable",
    errno.EISDIR: "A folder is in the way of a file: remove it",
    errno.ENOTDIR: "A file is in the way of a folder: remove it",
    errno.EEXIST: "A file is in the way of a folder: remove it",
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


def make_folder(root: Path, *parts: str) -> Path:
    """Create `root` and the folders below it, each of them as open to others as `root` is.

    What the owner of a shared cache chose for its root (a group that may write, a sticky bit)
    then holds for all of it, whatever the umask of each of its users.
    """
    folder = root
    with cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for part in parts:
            folder /= part
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                with suppress(PermissionError):  # another user was faster, and owns it
                    folder.chmod(stat.S_IMODE(root.stat().st_mode))
    return folder


@contextmanager
def temporary(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A path in `folder` that nobody else uses; what is left there at the end is removed.

    It is for the caller to make a file or a folder of it. Some writers look at its suffix.
    """
    path = folder / f".partial-{_habitat()}-{os.getpid()}-{secrets.token_hex(8)}{suffix}"
    _unfinished.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _unfinished.discard(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder that nobody needs; rubbish is never the reason for a failure."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def publish(path: Path, destination: Path) -> None:
    """Move a finished file to `destination` in one step that also survives a power failure.

    Raises:
        CacheError: The folder of `destination` is not writable or on another file system, or a
            folder is in the way.
    """
    with cache_errors(destination):
        _sync(path)
        path.replace(destination)
        _sync_folder(destination.parent)


def publish_new(path: Path, destination: Path) -> bool:
    """Publish, unless there already is a `destination`; return whether there was none.

    Raises:
        CacheError: As for `publish`.
    """
    with cache_errors(destination):
        _sync(path)
        try:
            destination.hardlink_to(path)  # unlike a rename, a link never replaces anything
        except FileExistsError:
            return False
        except OSError:  # a file system without links: the best that can be had
            if destination.exists():
                return False
            publish(path, destination)
        _sync_folder(destination.parent)
    return True


def move_unless_there(entry: Path, place: Path) -> None:
    """Move a file or folder to `place`, unless there already is something."""
    if not place.exists():
        try:
            entry.rename(place)
        except OSError:
            if not place.exists():  # otherwise another process was faster
                raise


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems and Windows cannot; the data is safe
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def share(path: Path) -> None:
    """Let those read `path` who may read the folder it is in; only its owner may change it."""
    with cache_errors(path):
        path.chmod(stat.S_IMODE(path.parent.stat().st_mode) & 0o444 | stat.S_IRUSR | stat.S_IWUSR)


class PartialFile:
    """A file under way: hashed and measured as it grows.

    Args:
        path: Where to write it; usually from `temporary`.

    Attributes:
        size: How many bytes there are so far.
        head: The first few of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.head = b""
        self._digest = hashlib.sha256()

    def __enter__(self) -> "Self":
        with cache_errors(self.path):
            self._file = self.path.open("xb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            with cache_errors(self.path):
                self._file.close()
        else:
            with suppress(OSError):  # a full disk may refuse the last bytes again
                self._file.close()

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, block: bytes) -> None:
        """Append `block`.

        Raises:
            CacheError: The disk is full, or a quota or limit is reached.
        """
        with cache_errors(self.path):
            self._file.write(block)
        self._digest.update(block)
        self.size += len(block)
        if len(self.head) < HEAD_SIZE:
            self.head = (self.head + block)[:HEAD_SIZE]

    def flush(self) -> None:
        """Make all that was written visible to other readers of the file.

        Raises:
            CacheError: As for `write`.
        """
        with cache_errors(self.path):
            self._file.flush()

    def restart(self) -> None:
        """Begin again with an empty file."""
        with cache_errors(self.path):
            self._file.seek(0)
            self._file.truncate()
        self.size = 0
        self.head = b""
        self._digest = hashlib.sha256()

    def need_room(self, size: int) -> None:
        """Make sure that the file can grow to `size` bytes.

        Raises:
            CacheError: There is not enough free space, or the folder is gone.
        """
        missing = size - self.size
        with cache_errors(self.path):
            free = shutil.disk_usage(self.path.parent).free
        if free < missing:
            raise CacheError(
                f"Not enough space in {self.path.parent}: {missing:,} bytes are needed and "
                f"{free:,} are free. Free some space, or choose another folder ({CACHE_VARIABLE} "
                "names that of the cache)."
            )


def sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`; files still under way are not touched."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if _is_abandoned(path):
                _remove(path)


def _is_abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match[1] == _habitat() and os.name == "posix":
        return not _is_running(int(match[2]))
    return time.time() - path.stat().st_mtime > _ABANDONED_AFTER


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, for somebody else
        return True
    return True


@cache
def _habitat() -> str:
    """Name the world in which a process number means something.

    Two containers may share a folder and even a host name, but not a process namespace; and
    numbers start over when a machine is booted.
    """
    facts = [os.uname().nodename if hasattr(os, "uname") else ""]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


_unfinished: set[Path] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unfinished.clear)  # they are the parent's to remove


@contextmanager
def tidy_on_sigterm() -> Iterator[None]:
    """Let SIGTERM remove unfinished files before it ends the process, as Ctrl-C does.

    Only where the program has not chosen what SIGTERM does. Python sets signal handlers in the
    main thread alone: what other threads leave behind is swept later.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _remove_unfinished_and_die)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _remove_unfinished_and_die(number: int, _frame: FrameType | None) -> None:
    for path in tuple(_unfinished):
        _remove(path)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)  # so that the parent sees the death it asked for
