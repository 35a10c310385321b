"""What somebody else says about a published file: where it is and how to recognise it."""

import re
from dataclasses import dataclass

from ..errors import ResourceError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]{0,119}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Resource:
    """A published file.

    Attributes:
        key: Path below the bucket, the same under every mirror: ``"folder/file.bin"``.
        url: The official URL, tried after the mirrors.
        sha256: Digest in lower-case hex, or None where none was published: then the first
            digest seen is recorded and expected ever after.
        size: Size in bytes, where it is known.

    Raises:
        ResourceError: The key is not a plain relative path, or the digest or size is malformed.
    """

    key: str
    url: str
    sha256: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        parts = self.key.split("/")
        for part in parts:
            check_name(part)
        if len("%2F".join(parts)) > _LONGEST_KEY:
            raise ResourceError(f"too long for the name of a record: {self.key!r}")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ResourceError(f"not a sha256 in 64 lower-case hex digits: {self.sha256!r}")
        if self.size is not None and self.size < 0:
            raise ResourceError(f"negative size: {self.size}")

    @property
    def name(self) -> str:
        """The last part of the key: the name of the file."""
        return self.key.rpartition("/")[2]


def check_name(name: str) -> None:
    """Make sure that `name` can be the name of a file, and of nothing else, on every system.

    Raises:
        ResourceError: It is empty, hidden or too long, or has a character outside
            ``A-Za-z0-9_.+@=-``.
    """
    if not _NAME.fullmatch(name):
        raise ResourceError(f"not a plain name of letters, digits and _.+@=-: {name!r}")
