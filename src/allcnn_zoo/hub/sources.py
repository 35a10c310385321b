"""Sources of a file: why one failed, which failed recently, and local ones."""

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import HubError, printable
from ..storage import expanded
from .files import HEAD_SIZE, PartialFile
from .settings import is_url

_BLOCK = 1 << 20
_LONGEST_REASON = 120
_LONGEST_NOTE = 1000
_FAILURE_MEMORY = 600.0

_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_S3_ERROR = re.compile(rb"<(?:Code|Message)>(.*?)</", re.DOTALL)
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")


Kind = Literal["unavailable", "wrong bytes", "passing", "exhausted", "no room"]
"""It has no such file; it has other bytes; this attempt failed, and another may not; all attempts
failed; the disk cannot take its file."""


class SourceError(Exception):
    """A source does not deliver the file; `kind` is the reason.

    If another attempt may succeed, `wait` is the pause in seconds that the server asks for, and
    `answered` tells whether it answered at all.
    """

    def __init__(
        self, reason: str, kind: Kind = "unavailable", wait: float = 0.0, answered: bool = True
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait
        self.answered = answered


@dataclass(frozen=True)
class Failures:
    """Sources that failed recently: one small file each, visible to other processes."""

    folder: Path
    write: Callable[[Path, str], None]
    ask_again: bool

    def recent(self, place: str) -> str | None:
        """Why `place` should not be tried now, if so."""
        note = self._note(place)
        with suppress(OSError):
            age = time.time() - note.lstat().st_mtime
            is_file = stat.S_ISREG(note.lstat().st_mode)
            if is_file and 0 <= age < _FAILURE_MEMORY and not self.ask_again:
                with note.open(encoding="utf-8", errors="replace") as file:
                    return f"not tried: {age:.0f} s ago, {file.read(_LONGEST_NOTE)}"
        return None

    def record(self, place: str, failure: SourceError | None) -> None:
        """Remember that `place` failed in all attempts; None removes that note."""
        note = self._note(place)
        with suppress(HubError, OSError):  # if this cannot be noted, the source is only asked again
            if failure is None:
                note.unlink()
            elif failure.kind == "exhausted":
                self.write(note, str(failure))

    def _note(self, place: str) -> Path:
        return self.folder / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def copy_local(place: str, partial: PartialFile, size: int | None) -> None:
    """Copy the file at `place`, a path or a ``file://`` URL, into `partial`."""
    try:
        path = expanded(place)
        if is_url(place):
            url = urlsplit(place)
            if url.netloc not in {"", "localhost"}:
                raise SourceError("a file URL names a local path: file:///folder/file")
            path = Path(url2pathname(url.path))
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise SourceError("not a regular file")
        if size is not None and facts.st_size != size:
            raise SourceError(f"{facts.st_size:,} bytes instead of {size:,}", "wrong bytes")
        partial.restart()
        partial.need_room(facts.st_size)
        with path.open("rb") as file:
            while block := file.read(min(_BLOCK, facts.st_size - partial.size)):
                partial.write(block, facts.st_size)
    except OSError as error:
        raise SourceError(error.strerror or str(error)) from error
    except ValueError as error:  # half a URL, a null byte
        raise SourceError(f"not a usable path: {error}") from error
    if partial.size < facts.st_size:
        raise SourceError("shrank while it was read", "wrong bytes")


def diagnose(head: bytes) -> str | None:
    """The kind of error page that begins with `head`, or None."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:HEAD_SIZE]
    if start.startswith((b"<?xml", b"<Error")) and (said := _S3_ERROR.findall(start)[:2]):
        return f"an S3 error ({': '.join(map(one_line, said))})"
    if start[:16].lower().startswith(_HTML_STARTS):
        title = _TITLE.search(start)
        called = f' titled "{one_line(title[1])}"' if title else ""
        return f"an HTML page{called} (a captive portal, a login or an error page?)"
    return None


def one_line(text: bytes | str) -> str:
    """Text from a server as one short line that is safe to print."""
    decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return printable(" ".join(decoded[: 4 * _LONGEST_REASON].split()), _LONGEST_REASON)
