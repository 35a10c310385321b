"""Unpacking an archive that might be hostile."""

import errno
import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from ..errors import CacheError, IntegrityError
from .files import cache_errors, move_unless_there, temporary

_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGED = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, ValueError),
    RecursionError,  # headers that announce headers that announce headers
)


def extract_tar(
    archive: Path, destination: Path, *, max_size: int, max_members: int = 10_000
) -> list[Path]:
    """Unpack a tar archive, compressed by gzip or not.

    Only plain files and folders below `destination` are accepted, and no more bytes in all than
    the caller expects: neither a crafted name nor a bomb does harm. Everything is unpacked aside
    and checked first; then each top-level entry appears at once. One that exists is kept.

    Args:
        archive: The file to unpack.
        destination: The folder to put its entries in; created if necessary.
        max_size: Bytes that the uncompressed archive may have, headers included.
        max_members: Files and folders that it may contain.

    Returns:
        The top-level entries, in `destination`.

    Raises:
        IntegrityError: It is damaged or larger than it may be, or a member is a link, a device,
            outside the folder, or there twice.
        CacheError: `archive` cannot be read, or `destination` cannot be written.
    """
    with _open(archive) as file, cache_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        with temporary(destination) as aside:
            aside.mkdir()
            try:
                _unpack(_Bounded(_decompressed(file), max_size), aside, max_members)
            except _DAMAGED as error:
                raise IntegrityError(f"{archive} cannot be unpacked: {error}") from error
            return [_move_in(entry, destination) for entry in sorted(aside.iterdir())]


def _open(archive: Path) -> BinaryIO:
    try:
        return archive.open("rb")
    except OSError as error:
        raise CacheError(f"Cannot read {archive}: {error.strerror}.") from error


class _Bounded:
    """A stream that refuses to give more than `limit` bytes, whatever its headers declare."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int) -> bytes:
        block = self._stream.read(min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise ValueError("it is larger than expected")
        return block


def _decompressed(file: BinaryIO) -> IO[bytes]:
    compressed = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if compressed else file


def _unpack(stream: _Bounded, folder: Path, max_members: int) -> None:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as tar:
        for number, member in enumerate(tar):
            if number >= max_members:
                raise ValueError(f"it has more than {max_members:,} members")
            path = folder.joinpath(*_safe_parts(member))
            try:
                _write_member(tar, member, path)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise ValueError(f"{member.name!r:.99} collides with another member") from None
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise ValueError(f"{member.name!r:.99} is too long a name") from error
    while stream.read(1 << 20):  # to the end, where gzip keeps its checksum
        pass


def _safe_parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    name = member.name
    parts = PurePosixPath(name).parts
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise ValueError(f"{name!r:.99} is neither a plain file nor a folder")
    if ".." in parts or name.startswith("/") or not name.isprintable() or set(name) & set(":\\"):
        raise ValueError(f"{name!r:.99} is not a plain path inside the archive")
    return parts


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # true of every regular file
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)


def _move_in(entry: Path, destination: Path) -> Path:
    place = destination / entry.name
    move_unless_there(entry, place)
    return place
