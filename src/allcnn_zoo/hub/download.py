"""From a list of sources to one verified file, or to an error that says what was tried."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import AllCNNZooError, DownloadError, HubError, IntegrityError, OfflineError
from . import locks, settings
from .diagnosis import diagnose, plain
from .files import PartialFile, cache_errors, publish, sha256_of, sweep, temporary, tidy_on_sigterm
from .progress import Progress
from .resource import Resource
from .settings import (
    CACHE_VARIABLE,
    DEFAULT_POLICY,
    MIRRORS_VARIABLE,
    OFFLINE_VARIABLE,
    Policy,
)
from .sources import SourceError, candidates, copy_local, is_local, redacted

if TYPE_CHECKING:
    import requests


Check = Callable[[Path], object]
"""Looks at a new file before it is trusted; refuses it by raising an `AllCNNZooError`."""


@dataclass(frozen=True)
class Receipt:
    """What was delivered, and by whom.

    Attributes:
        sha256: Digest of the file, in hex.
        size: Its size in bytes.
        url: Where it came from, without passwords or signatures.
        etag: The server's name for this version, if it gave one.
    """

    sha256: str
    size: int
    url: str
    etag: str | None


@dataclass(frozen=True)
class Sources:
    """Where to look besides a resource's own URL, and how.

    Attributes:
        mirrors: Base URLs or folders, tried before the official URL.
        offline: Whether only local files may be read.
        session: Used for every request; None makes one for each download.
        policy: How patient to be.
    """

    mirrors: Sequence[str]
    offline: bool
    session: "requests.Session | None" = None
    policy: Policy = DEFAULT_POLICY

    @classmethod
    def chosen(
        cls,
        mirrors: Sequence[str] | None,
        offline: bool | None,
        session: "requests.Session | None",
        policy: Policy,
    ) -> "Sources":
        """Fill what is None from the environment."""
        return cls(
            mirrors=settings.mirrors() if mirrors is None else tuple(mirrors),
            offline=settings.offline() if offline is None else offline,
            session=session,
            policy=policy,
        )

    def retrieve(
        self,
        resource: Resource,
        path: Path,
        *,
        progress: bool = True,
        check: Check | None = None,
        because: str = "",
    ) -> Receipt:
        """Write a verified copy of `resource` to `path`, from the first source that has one.

        Args:
            resource: What to get.
            path: A new file; on an error its content is worthless.
            progress: Whether to show a bar on a terminal.
            check: As for `download`.
            because: Added to the error when the bytes are not the expected ones.

        Raises:
            OfflineError: Only the network has it, and the network may not be used.
            DownloadError: No source delivers it.
            IntegrityError: At least one source delivers, but other bytes.
            CacheError: `path` cannot be written.
        """
        failures: list[tuple[str, SourceError]] = []
        with PartialFile(path) as partial, Progress(resource.name, wanted=progress) as bar:
            for place in candidates(resource, self.mirrors):
                partial.restart()
                try:
                    etag = self._deliver(resource, place, partial, bar)
                    receipt = Receipt(partial.sha256, partial.size, redacted(place), etag)
                    _verify(resource, receipt, partial, check)
                except SourceError as failure:
                    failures.append((redacted(place), failure))
                else:
                    return receipt
        raise self._failure(resource, failures, because) from failures[-1][1]

    def _deliver(
        self, resource: Resource, place: str, partial: PartialFile, bar: Progress
    ) -> str | None:
        if is_local(place):
            copy_local(place, partial, resource.size, bar)
            return None
        if self.offline:
            raise SourceError(f"not tried: {OFFLINE_VARIABLE} is set")
        import requests

        from .http import HttpTransfer

        with ExitStack() as stack:
            session = self.session or stack.enter_context(requests.Session())
            transfer = HttpTransfer(
                resource, place, partial, session=session, policy=self.policy, progress=bar
            )
            transfer.run()
            return None if transfer.etag is None else plain(transfer.etag)

    def _failure(
        self, resource: Resource, failures: list[tuple[str, SourceError]], because: str
    ) -> HubError:
        tried = "\n".join(f"  {place}: {failure}" for place, failure in failures)
        mirror = (
            f"name a mirror in {MIRRORS_VARIABLE} (base URLs or folders, comma-separated, "
            f"each holding {resource.key}), or bring a filled cache and name it in {CACHE_VARIABLE}"
        )
        if any(failure.wrong_bytes for _, failure in failures):
            return IntegrityError(
                f"{resource.key} was delivered, but not the expected bytes:\n{tried}\n"
                f"{because}Nothing was kept. Check the sources, or {mirror}."
            )
        if self.offline:
            return OfflineError(
                f"{resource.key} is not at hand, and the network may not be used:\n{tried}\n"
                f"Unset {OFFLINE_VARIABLE}, or {mirror}."
            )
        return DownloadError(
            f"No source delivered {resource.key}:\n{tried}\n"
            f"Partial data was deleted. Check the network and its proxy, or {mirror}."
        )


class _Version(Protocol):
    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def etag(self) -> str | None: ...


def described(version: _Version) -> str:
    """One version of a file, in words that tell it from another."""
    etag = f", ETag {version.etag}" if version.etag else ""
    return f"sha256 {version.sha256} ({version.size:,} bytes{etag})"


def _verify(
    resource: Resource, receipt: Receipt, partial: PartialFile, check: Check | None
) -> None:
    if resource.sha256 is not None:
        if receipt.sha256 != resource.sha256:
            got = diagnose(partial.head) or described(receipt)
            raise SourceError(f"{got} instead of sha256 {resource.sha256}", wrong_bytes=True)
    elif receipt.size == 0:
        raise SourceError("an empty file", wrong_bytes=True)
    elif (found := diagnose(partial.head)) is not None:
        raise SourceError(found, wrong_bytes=True)
    if check is not None:
        partial.flush()
        try:
            check(partial.path)
        except AllCNNZooError as error:
            raise SourceError(f"not accepted: {error}", wrong_bytes=True) from error


def download(
    resource: Resource,
    destination: Path,
    *,
    mirrors: Sequence[str] | None = None,
    session: "requests.Session | None" = None,
    offline: bool | None = None,
    progress: bool = True,
    check: Check | None = None,
    policy: Policy = DEFAULT_POLICY,
) -> Receipt | None:
    """Put a verified copy of `resource` at a path of the caller's choice.

    If `destination` already has the published digest, nothing is fetched or written. Whatever
    else is there is replaced, in one step, when the new file is complete and verified.

    Args:
        resource: What to get.
        destination: The file to write. Its folder is created.
        mirrors: Base URLs or folders tried first; ``ALLCNN_ZOO_MIRRORS`` if None.
        session: For networks that need more than environment variables.
        offline: Whether only local mirrors may be used; ``ALLCNN_ZOO_OFFLINE`` if None.
        progress: Whether to show a bar on a terminal.
        check: Called with the path of the new file before it is trusted; by raising an
            `AllCNNZooError` it refuses the file, and the next source is tried.
        policy: How patient to be.

    Returns:
        What was delivered and by whom, or None if it was already there.

    Raises:
        OfflineError: Only the network has it, and the network may not be used.
        DownloadError: No source delivers it.
        IntegrityError: At least one source delivers, but other bytes.
        CacheError: `destination` cannot be written.
    """
    sources = Sources.chosen(mirrors, offline, session, policy)
    destination = destination.absolute()
    if _is_there(resource, destination):
        return None
    with cache_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
    with tidy_on_sigterm(), locks.hold(_lock_beside(destination), policy.lock_timeout):
        if _is_there(resource, destination):  # another process was faster
            return None
        sweep(destination.parent)
        with temporary(destination.parent, destination.suffix) as path:
            receipt = sources.retrieve(resource, path, progress=progress, check=check)
            publish(path, destination)
    return receipt


def _is_there(resource: Resource, destination: Path) -> bool:
    with cache_errors(destination):
        if resource.sha256 is None or not destination.exists():
            return False
        return sha256_of(destination) == resource.sha256


def _lock_beside(destination: Path) -> Path:
    """A lock for `destination` that leaves no file in the caller's folder."""
    name = hashlib.sha256(os.fsencode(destination)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"allcnn_zoo-{name}.lock"
