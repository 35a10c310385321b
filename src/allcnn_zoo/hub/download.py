"""From a list of sources to one verified file, or to an error that lists what was tried."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import errors
from ..errors import AllCNNZooError, CacheError, HubError
from ..storage import publish, sweep, temporary
from . import settings
from .files import PartialFile, Progress, cache_errors, hold, sha256_of
from .settings import DEFAULT_POLICY, Policy, Resource, address_problem, is_local, is_url, redacted
from .sources import Failures, SourceError, copy_local, diagnose, one_line

if TYPE_CHECKING:
    from requests import Session as Session
else:
    Session = Any  # for `typing.get_type_hints`, without the time that the import takes


@dataclass(frozen=True)
class CachedFile:
    """A verified file and its record.

    Attributes:
        path: Where the file is.
        key: The resource's key; for a derived file, its name.
        sha256: Digest of the bytes, in hex.
        size: Number of bytes.
        date: When it was downloaded or made: ISO 8601, UTC.
        url: Where it came from, without passwords or signatures; None if not recorded.
        etag: The server's ETag for this version, if it gave one.
        source: Digest of the file that this one was made from; None for a download.
    """

    path: Path
    key: str
    sha256: str
    size: int
    date: str
    url: str | None = None
    etag: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        """Text that identifies this version of the file: digest, size, ETag."""
        etag = f", ETag {self.etag}" if self.etag else ""
        return f"sha256 {self.sha256} ({self.size:,} bytes{etag})"


Check = Callable[[CachedFile], object]
"""Checks a new file before it is recorded; raises an `AllCNNZooError` to refuse it."""


class Sources:
    """Where and how to look for resources; environment variables replace None."""

    def __init__(
        self,
        mirrors: Sequence[str] | None,
        offline: bool | None,
        session: Session | None,
        policy: Policy,
    ) -> None:
        self.policy = policy
        self._mirrors = settings.mirrors() if mirrors is None else tuple(mirrors)
        self._offline = settings.offline() if offline is None else offline
        self._session = session

    def retrieve(
        self,
        resource: Resource,
        path: Path,
        *,
        progress: bool = True,
        check: Check | None = None,
        because: str = "",
        failures: Failures | None = None,
    ) -> CachedFile:
        """Write a verified copy of `resource` to `path`, from the first source that has one.

        `because` is added to the error if the bytes are not the expected ones. After an error,
        `path` holds no usable file.
        """
        tried: list[tuple[str, SourceError]] = []
        with closing(PartialFile(path, Progress(resource.name, wanted=progress))) as partial:
            for place in self._places(resource):
                failure = None
                try:
                    file = self._try(resource, place, partial, check, failures)
                except SourceError as error:
                    failure = error
                except CacheError as error:  # a source may have sent more than there is room for
                    failure = SourceError(str(error), "no room")
                if failures:
                    failures.record(place, failure)
                if failure is None:
                    return file
                tried.append((place, failure))
        raise self._failure(resource, tried, because) from tried[-1][1]

    def _places(self, resource: Resource) -> list[str]:
        """The addresses and paths to try, mirrors first, without duplicates."""
        key = resource.key
        if key is None:
            return [resource.url]
        bases = [(base.rstrip("/"), is_url(base)) for base in self._mirrors]
        places = [f"{base}/{quote(key) if quoted else key}" for base, quoted in bases]
        return list(dict.fromkeys([*places, resource.url]))

    def _try(
        self,
        resource: Resource,
        place: str,
        partial: PartialFile,
        check: Check | None,
        failures: Failures | None,
    ) -> CachedFile:
        if failures and (known := failures.recent(place)):
            raise SourceError(known)
        if not partial.is_left_over:
            partial.restart()
        try:
            etag = self._deliver(resource, place, partial)
            file = CachedFile(
                path=partial.path,
                key=resource.cache_key,
                sha256=partial.sha256,
                size=partial.size,
                date=timestamp(),
                url=redacted(place),
                etag=etag and one_line(etag),
            )
            _verify(resource, file, partial.head, check)
        except SourceError as failure:
            if failure.kind != "wrong bytes" or not partial.is_left_over:
                raise
            partial.restart()  # the left-over part was of another file
            return self._try(resource, place, partial, check, failures)
        return file

    def _deliver(self, resource: Resource, place: str, partial: PartialFile) -> str | None:
        """Write the bytes into `partial`, and return their ETag."""
        if problem := address_problem(place):
            raise SourceError(problem)
        if is_local(place):
            copy_local(place, partial, resource.size)
            return None
        if self._offline:
            raise SourceError(f"not tried: {settings.OFFLINE_VARIABLE} is set")
        from .http import HttpTransfer, Sessions

        mirrors = [base for base in self._mirrors if not is_local(base)] if resource.key else []
        with closing(Sessions(self._session, mirrors or [resource.url])) as sessions:
            return HttpTransfer(resource, place, partial, sessions, self.policy).run()

    def _failure(
        self, resource: Resource, tried: list[tuple[str, SourceError]], because: str
    ) -> HubError:
        key = resource.cache_key
        listed = "\n".join(f"  {redacted(place)}: {failure}" for place, failure in tried)
        remedy = f"bring a filled cache and name it in {settings.CACHE_VARIABLE}."
        if resource.key is not None:
            remedy = (
                f"name a mirror in {settings.MIRRORS_VARIABLE} (base URLs or folders, "
                f"comma-separated, each holding {key}), or {remedy}"
            )
        kinds = {failure.kind for _, failure in tried}
        error: type[HubError] = errors.DownloadError
        what, advice = f"No source delivered {key}", "Check the network and its proxy"
        if "no room" in kinds:
            error, what, advice = CacheError, f"{key} cannot be stored", "Make room for it"
        elif "wrong bytes" in kinds:
            error, what = errors.IntegrityError, f"{key} was delivered, but not the expected bytes"
            advice = f"{because}Nothing was kept. Check the sources"
        elif self._offline:
            error = errors.OfflineError
            what = f"{key} is not in the cache, and the network may not be used"
            advice = f"Unset {settings.OFFLINE_VARIABLE}"
        return error(f"{what}:\n{listed}\n{advice}, or {remedy}")


def timestamp(moment: float | None = None) -> str:
    """The time in the format of records: now, or from seconds since 1970."""
    moment = time.time() if moment is None else moment
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")


def arriving(folder: Path, resource: Resource) -> AbstractContextManager[Path]:
    """Like `temporary`, for a download, which continues an interrupted one."""
    sha256 = None if resource.size is None else resource.sha256
    return temporary(folder, Path(resource.name).suffix, sha256)


def _verify(resource: Resource, file: CachedFile, head: bytes, check: Check | None) -> None:
    found = diagnose(head) or ("an empty file" if file.size == 0 else None)
    if resource.sha256 is None and found:
        raise SourceError(found, "wrong bytes")
    if resource.sha256 not in {None, file.sha256}:
        raise SourceError(f"{found or file} instead of sha256 {resource.sha256}", "wrong bytes")
    try:
        if check is not None:
            check(file)
    except CacheError:  # the disk's fault, not the file's
        raise
    except AllCNNZooError as error:
        reason = str(error).replace(str(file.path), resource.name)
        raise SourceError(f"not accepted: {reason}", "wrong bytes") from None


def download(
    resource: Resource,
    destination: Path,
    *,
    mirrors: Sequence[str] | None = None,
    session: Session | None = None,
    offline: bool | None = None,
    progress: bool = True,
    policy: Policy = DEFAULT_POLICY,
) -> CachedFile | None:
    """Write a verified copy of `resource` to any path.

    If `destination` already has the published digest, nothing is fetched or written. Any other
    file there is replaced, in one step, when the new file is complete and verified.

    Args:
        resource: The file to get.
        destination: The file to write. Its folder is created.
        mirrors: As for `Cache`, like the other options.
        session: For networks that need more than environment variables.
        offline: Whether only local files may be used.
        progress: Whether to show a bar on a terminal.
        policy: Timeouts and limits.

    Returns:
        The record of the download, or None if the file was already there.

    Raises:
        OfflineError: A download is needed, but not allowed.
        DownloadError: No source delivers the file.
        IntegrityError: A source delivers other bytes than expected.
        CacheError: `destination` cannot be written.
    """
    sources = Sources(mirrors, offline, session, policy)
    destination = destination.absolute()
    if _is_there(resource, destination):
        return None
    with cache_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(destination.name)).hexdigest()[:32]
    lock = destination.parent / f".{name}.lock"
    with hold(lock, policy.lock_timeout, f"fetches {resource.name}"):
        if _is_there(resource, destination):  # another process was faster
            return None
        sweep(destination.parent)
        with arriving(destination.parent, resource) as path:
            file = sources.retrieve(resource, path, progress=progress)
            with cache_errors(destination):
                publish(path, destination)
    return replace(file, path=destination)


def _is_there(resource: Resource, destination: Path) -> bool:
    with cache_errors(destination):
        if resource.sha256 is None or not destination.exists():
            return False
        return sha256_of(destination) == resource.sha256
