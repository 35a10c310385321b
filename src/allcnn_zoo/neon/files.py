"""Bytes of a regular file, or an error in one line.

Opening a path from a stranger must not block (a fifo), have effects (a device), or fill the memory
with something that is not a pickle (an archive). All of that is checked before reading.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ..errors import NeonError, UnsafePickleError, printable
from ..storage import expanded

Source: TypeAlias = str | os.PathLike[str] | bytes
"""A file, by its path, or its content."""

_MAX_BYTES = 4 << 30  # forty times any known neon file

_HEAD_BYTES = 512  # enough for every signature below; tar's is the furthest in, at byte 257
_LARGEST_SAFETENSORS_HEADER = 100_000_000  # the format's own limit

SAFETENSORS = "a safetensors file; it needs no conversion, and loads by a name in .safetensors"
_PYTORCH = "a PyTorch file; load it with torch.load(..., weights_only=True)"
_UNPACK = "unpack it first and give the file inside"
_SIGNATURES: tuple[tuple[int, bytes | tuple[bytes, ...], str], ...] = (  # offset, bytes, meaning
    (0, b"PK\x03\x04", f"a zip archive (also PyTorch's and numpy's .npz); {_UNPACK}"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", _PYTORCH),
    (0, b"\x1f\x8b", f"compressed with gzip; {_UNPACK}"),
    (0, b"BZh", f"compressed with bzip2; {_UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"compressed with xz; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed with zstd; {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive; {_UNPACK}"),
    (0, b"Rar!\x1a\x07", f"a rar archive; {_UNPACK}"),
    (257, (b"ustar\x00", b"ustar  "), f"a tar archive; {_UNPACK}"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file; no neon model is stored in one"),
    (0, b"\x93NUMPY", "a numpy .npy file; load it with numpy.load"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, (b"II*\x00", b"MM\x00*"), "a TIFF image"),
    (8, b"WEBP", "a WebP image"),
    (4, b"ftyp", "a video, or an AVIF or HEIC image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"%!PS", "a PostScript program"),
    (0, b"\x7fELF", "a program or library (ELF)"),
    (0, b"#!", "a script"),
    (0, b"<", "a web page or XML, probably a server's error message; download the file again"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
)


def read_file(source: Source) -> bytes:
    """The content of a regular file that may be a pickle.

    Args:
        source: The file (symbolic links are followed), or its content.

    Raises:
        NeonError: There is no such file, it cannot be read, or it is a directory, fifo, device or
            socket. Nothing was opened in the last four cases.
        UnsafePickleError: It is empty, over 4 GiB (then it is not read), or of another known
            format.
    """
    with naming(source):
        if isinstance(source, bytes):
            _refuse_other_formats(source)
            return source
        if "\0" in os.fspath(source):
            raise NeonError("no file's name has a NUL in it")
        source = expanded(os.fspath(source))
        _require_regular(source.stat().st_mode)
        # The path may become a fifo between the check and the opening: check again what was
        # opened, and open in a way that does not wait for a fifo's writer.
        with open(source, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            _require_regular(status.st_mode)
            if status.st_size > _MAX_BYTES:
                raise UnsafePickleError(
                    f"{status.st_size} bytes, more than the limit of {_MAX_BYTES}"
                )
            _refuse_other_formats(file.read(_HEAD_BYTES))
            file.seek(0)
            return file.read(status.st_size)


@contextlib.contextmanager
def naming(source: Source) -> Iterator[None]:
    """Turn errors about a file into a `NeonError` that begins with its name."""
    prefix = "" if isinstance(source, bytes) else f"{printable(source)}: "
    try:
        yield
    except OSError as error:
        raise NeonError(f"{prefix}{error.strerror or type(error).__name__}") from None
    except NeonError as error:
        raise type(error)(f"{prefix}{error}") from None


def _refuse_other_formats(head: bytes) -> None:
    if not head:
        raise UnsafePickleError("the file is empty; download it again")
    if found := other_format(head):
        raise UnsafePickleError(f"not a pickle but {found}")


def other_format(head: bytes) -> str | None:
    """The known format, other than pickle, of a file that begins with these 512 bytes, if any."""
    # First, because the size of the header may be the code of a letter, such as "<".
    header_size = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header_size <= _LARGEST_SAFETENSORS_HEADER:
        return SAFETENSORS
    for offset, signature, meaning in _SIGNATURES:
        if head.startswith(signature, offset):
            return meaning
    return None


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The result of `other_format` for a file; None if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if Path(path).is_file():  # opening a fifo would wait for a writer
            with Path(path).open("rb") as file:
                return other_format(file.read(_HEAD_BYTES))
    return None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {"d": "directory", "p": "fifo", "s": "socket", "c": "device", "b": "device"}
        found = kinds.get(stat.filemode(mode)[0], "special file")
        raise NeonError(f"a {found}, not a file; give the path of the pickle itself")
