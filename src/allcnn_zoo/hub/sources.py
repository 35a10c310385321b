"""Where a file may come from, in which order, and why a source could not deliver it."""

import re
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from .files import PartialFile
from .progress import Progress
from .resource import Resource

_BLOCK = 1 << 20
_SECRETS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:/ is a path


class SourceError(Exception):
    """One source does not have the file, or has other bytes under its name.

    Attributes:
        wrong_bytes: Whether it delivered something, but not the file.
    """

    def __init__(self, reason: str, *, wrong_bytes: bool = False) -> None:
        super().__init__(reason)
        self.wrong_bytes = wrong_bytes


def candidates(resource: Resource, mirrors: Sequence[str]) -> list[str]:
    """Every URL or path to try for `resource`, mirrors first, each only once."""
    places = [
        f"{mirror.rstrip('/')}/{quote(resource.key) if is_url(mirror) else resource.key}"
        for mirror in mirrors
    ]
    return list(dict.fromkeys([*places, resource.url]))


def is_url(place: str) -> bool:
    """Whether `place` is a URL rather than a local path."""
    return _SCHEME.match(place) is not None


def is_local(place: str) -> bool:
    """Whether `place` can be read without the network."""
    return not is_url(place) or place.lower().startswith("file://")


def redacted(place: str) -> str:
    """`place` without passwords and signatures: fit for error messages and records."""
    return _SECRETS.sub("", place) if is_url(place) else place


def copy_local(place: str, partial: PartialFile, size: int | None, progress: Progress) -> None:
    """Copy the local file at `place` into `partial`.

    Args:
        place: A path or a ``file://`` URL.
        partial: Where to write the bytes.
        size: The expected size, where it is known.
        progress: Is told about every block.

    Raises:
        SourceError: It cannot be a path, is not there, not a readable regular file, or has
            another size.
        CacheError: The disk is full.
    """
    try:
        path = _local_path(place)
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise SourceError("not a regular file")
        if size is not None and facts.st_size != size:
            raise SourceError(f"{facts.st_size:,} bytes instead of {size:,}", wrong_bytes=True)
        partial.need_room(facts.st_size)
        with path.open("rb") as file:
            while block := file.read(min(_BLOCK, facts.st_size - partial.size)):
                partial.write(block)
                progress.show(partial.size, facts.st_size)
    except OSError as error:
        raise SourceError(error.strerror or str(error)) from error
    except (RuntimeError, ValueError) as error:  # nobody's home, half a URL, a null byte
        raise SourceError(f"not a usable path: {error}") from error
    if partial.size < facts.st_size:
        raise SourceError("shrank while it was read", wrong_bytes=True)


def _local_path(place: str) -> Path:
    if not is_url(place):
        return Path(place).expanduser()
    url = urlsplit(place)
    if url.netloc not in {"", "localhost"}:
        raise SourceError("a file URL names a local path: file:///folder/file")
    return Path(url2pathname(url.path))
