"""The cache: verified files, found again by digest, with a record of where each came from.

Layout below the root::

    v1/files/<sha256>-<name>            the bytes, of downloads and of what was derived from them
    v1/records/<key>.json               what a key stands for: digest, size, URL, ETag, date
    v1/derived/<sha256>-<name>.json     what was derived from the file with this digest
    v1/incoming/                        files under way
    v1/quarantine/                      damaged files, kept for inspection until pruned
    v1/locks/                           one empty lock file per key

Finding a file only reads, so a filled cache works on a read-only disk and without a network.
Every change is one atomic rename, so a reader needs no lock and a lost lock harms nobody.
A record is written before its file: a record without a file is a digest to expect, never a lie.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CacheError, IntegrityError
from . import locks, settings
from .download import Check, Sources, described
from .files import (
    cache_errors,
    make_folder,
    move_unless_there,
    publish,
    publish_new,
    sha256_of,
    share,
    sweep,
    temporary,
    tidy_on_sigterm,
)
from .resource import Resource, check_name
from .settings import DEFAULT_POLICY, Policy

if TYPE_CHECKING:
    import requests

LAYOUT = 1
"""Version of the layout. Every version lives in a folder of its own, beside the older ones."""

MIGRATIONS: dict[int, Callable[[Path, Path], None]] = {}
"""How to fill the new, empty second folder with layout n + 1 from layout n in the first, by n."""

_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache: backups need not include it. See https://bford.info/cachedir/
"""


@dataclass(frozen=True)
class CachedFile:
    """A file in the cache and what is known of it.

    Attributes:
        path: Where the bytes are.
        key: The resource's key; for a derived file, its name.
        sha256: Digest of the bytes, in hex.
        size: Their number.
        date: When they were downloaded or made: ISO 8601, UTC.
        url: Where they came from, without passwords or signatures; None if nobody recorded it.
        etag: The server's name for that version, if it gave one.
        source: Digest of the file that this one was derived from; None for a download.
    """

    path: Path
    key: str
    sha256: str
    size: int
    date: str
    url: str | None = None
    etag: str | None = None
    source: str | None = None


class Cache:
    """Verified files on disk, fetched once for any number of processes, threads and users.

    Args:
        root: Its folder; ``ALLCNN_ZOO_CACHE`` or the user's cache folder if None.
        session: A `requests.Session` for networks that need more than environment variables.
        mirrors: Base URLs or folders tried first; ``ALLCNN_ZOO_MIRRORS`` if None.
        offline: Whether only the cache and local mirrors may be used; ``ALLCNN_ZOO_OFFLINE``
            if None.
        policy: How patient to be.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        session: "requests.Session | None" = None,
        mirrors: Sequence[str] | None = None,
        offline: bool | None = None,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self.root = settings.cache_root() if root is None else root.absolute()
        self._layout = f"v{LAYOUT}"
        self._sources = Sources.chosen(mirrors, offline, session, policy)

    def fetch(
        self,
        resource: Resource,
        *,
        progress: bool = True,
        check: Check | None = None,
        trust_new: bool = False,
    ) -> CachedFile:
        """Return a verified copy of `resource`, from the cache or else from its sources.

        Its digest is checked every time. A damaged copy is quarantined and fetched again, with a
        warning. If nobody published a digest, the one first seen is recorded and expected from
        then on.

        Args:
            resource: What to get.
            progress: Whether to show a bar on a terminal.
            check: Called with the path of a newly downloaded file before it is trusted and
                recorded; by raising an `AllCNNZooError` it refuses the file, and the next source
                is tried.
            trust_new: When it has to be fetched, accept and record another digest than the one
                on record. A published digest always has to match.

        Raises:
            OfflineError: It is not in the cache, and the network may not be used.
            DownloadError: No source delivers it.
            IntegrityError: The sources deliver other bytes than the published or recorded ones.
            CacheError: The cache cannot be read or written.
        """
        cached = self._find(resource)
        if cached is None:
            with self._working_on(resource.key):
                cached = self._find(resource, quarantine=True)  # somebody may have been faster
                if cached is None:
                    cached = self._download(resource, progress, check, trust_new=trust_new)
        return cached

    def derive(
        self,
        resource: Resource,
        name: str,
        build: Callable[[CachedFile, Path], None],
        *,
        progress: bool = True,
        check: Check | None = None,
        trust_new: bool = False,
    ) -> Path:
        """Return a file made from `resource`; made once, and kept in the cache from then on.

        Its own digest is checked every time; a damaged one is made anew, with a warning. While
        it is intact, the file that it was made from is neither needed nor read.

        Args:
            resource: What it is made from; fetched if necessary.
            name: Its name. A new version of `build` needs a new name.
            build: Called with the verified source and the path of the file to write.
            progress: As in `fetch`.
            check: As in `fetch`.
            trust_new: As in `fetch`.

        Raises:
            HubError: As in `fetch`. What `build` raises is passed on.
        """
        check_name(name)
        made = self._find_derived(resource, name)
        if made is None:
            source = self.fetch(resource, progress=progress, check=check, trust_new=trust_new)
            with self._working_on(f"{source.sha256}-{name}"):
                made = self._find_derived(resource, name, quarantine=True)
                if made is None:
                    made = self._build(source, name, build)
        return made.path

    def entries(self) -> list[CachedFile]:
        """Every file in the cache, with what is known of it, by key."""
        files = set(_children(self._path("files")))
        entries = [record for record in self._records() if record.path in files]
        strays = files - {entry.path for entry in entries}
        entries += filter(None, map(self._unrecorded, strays))
        return sorted(entries, key=lambda entry: (entry.key, entry.sha256))

    def verify(self) -> Iterator[tuple[CachedFile, bool]]:
        """Check every file in the cache; yield each with whether it is intact."""
        for entry in self.entries():
            yield entry, self._is_intact(entry)

    def remove(self, key: str, *, forget: bool = False) -> int:
        """Remove the files of a key, or of a derived file's name, and all that was made from them.

        The digest on record stays, so that the next download must still match it.

        Args:
            key: As in `entries`.
            forget: Remove the record as well: the next download is then trusted anew.

        Returns:
            How many bytes became free.

        Raises:
            CacheError: There is no such key, or the cache cannot be written.
        """
        records = self._records()
        chosen = {record.sha256 for record in records if record.key == key}
        doomed = [r for r in records if r.key == key or r.source in chosen]
        if not doomed:
            known = ", ".join(dict.fromkeys(entry.key for entry in self.entries())) or "nothing"
            raise CacheError(f"Nothing called {key!r} in {self.root}; it holds {known}.")
        freed = 0
        for record in doomed:
            freed += _delete(record.path)
            if forget or record.source is not None:
                _delete(self._record_path(record))
        return freed

    def prune(self) -> int:
        """Remove what no record leads to: strays, damaged files, and what killed processes left.

        Returns:
            How many bytes the strays and the damaged files had.

        Raises:
            CacheError: The cache cannot be written.
        """
        sweep(self._path("incoming"))
        files = _children(self._path("files"))  # before the records: each was written first
        recorded = {record.path for record in self._records()}
        strays = [path for path in files if path not in recorded]
        return sum(map(_delete, [*strays, *_children(self._path("quarantine"))]))

    # Finding only reads.

    def _find(self, resource: Resource, *, quarantine: bool = False) -> CachedFile | None:
        return self._checked(self._expected(resource), quarantine=quarantine)

    def _find_derived(
        self, resource: Resource, name: str, *, quarantine: bool = False
    ) -> CachedFile | None:
        source = self._expected(resource)
        if source is None:
            return None
        record = self._path("derived", f"{source.sha256}-{name}.json")
        with suppress(CacheError):  # a damaged record: it is made anew
            return self._checked(self._read_record(record), quarantine=quarantine)
        return None

    def _expected(self, resource: Resource) -> CachedFile | None:
        """What the cache should hold for `resource`; None if it was never fetched."""
        record = self._path("records", f"{_flat(resource.key)}.json")
        if resource.sha256 is None:
            return self._read_record(record)
        with suppress(CacheError):
            recorded = self._read_record(record)
            if recorded is not None and recorded.sha256 == resource.sha256:
                return recorded
        path = self._path("files", f"{resource.sha256}-{resource.name}")
        with cache_errors(path, "read"):
            found = self._unrecorded(path) if path.is_file() else None
        return found and replace(found, key=resource.key)

    def _checked(self, file: CachedFile | None, *, quarantine: bool) -> CachedFile | None:
        if file is None or not _exists(file.path):
            return None
        if self._is_intact(file):
            return file
        if quarantine:
            self._quarantine(file)
        return None

    def _is_intact(self, file: CachedFile) -> bool:
        with cache_errors(file.path, "read"), suppress(FileNotFoundError):
            return file.path.is_file() and sha256_of(file.path) == file.sha256
        return False

    def _records(self) -> list[CachedFile]:
        records = []
        for folder in ("records", "derived"):
            for path in _children(self._path(folder)):
                with suppress(CacheError):
                    if record := self._read_record(path):
                        records.append(record)
        return records

    def _read_record(self, path: Path) -> CachedFile | None:
        with cache_errors(path, "read"):
            try:
                text = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            return self._parse_record(text)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CacheError(
                f"{path} is damaged, so the digest to expect is lost. Remove it to trust the next "
                "download, or give the digest."
            ) from error

    def _parse_record(self, text: bytes) -> CachedFile:
        facts: dict[str, Any] = json.loads(text)
        name = Resource(facts["key"], "", facts["sha256"], facts["size"]).name
        file = CachedFile(path=self._path("files", f"{facts['sha256']}-{name}"), **facts)
        if None in {file.sha256, file.size} or not datetime.fromisoformat(file.date):
            raise ValueError("incomplete")
        return file

    def _unrecorded(self, path: Path) -> CachedFile | None:
        """What its name tells of a file; None if it has just been removed, or is a dead link."""
        sha256, _, name = path.name.partition("-")
        with cache_errors(path, "read"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                return None
        date = _date(facts.st_mtime)
        return CachedFile(path=path, key=name, sha256=sha256, size=facts.st_size, date=date)

    # Changing happens in `_working_on`, one atomic rename at a time.

    @contextmanager
    def _working_on(self, what: str) -> Iterator[None]:
        self._prepare()
        sweep(self._folder("incoming"))
        lock = self._folder("locks") / f"{_flat(what)}.lock"
        with tidy_on_sigterm(), locks.hold(lock, self._sources.policy.lock_timeout):
            yield

    def _prepare(self) -> None:
        if self._path().is_dir():
            return
        tag = make_folder(self.root) / "CACHEDIR.TAG"
        with cache_errors(tag):
            if not tag.exists():
                tag.write_text(_TAG, "utf-8")
        _migrate(self.root)

    def _download(
        self, resource: Resource, progress: bool, check: Check | None, *, trust_new: bool
    ) -> CachedFile:
        trusted = None
        if resource.sha256 is None and not trust_new:
            trusted = self._expected(resource)
        wanted = replace(resource, sha256=trusted.sha256) if trusted else resource
        because = f"{_first_use(trusted)}\n" if trusted else ""
        with temporary(self._folder("incoming"), Path(resource.name).suffix) as path:
            receipt = self._sources.retrieve(
                wanted, path, progress=progress, check=check, because=because
            )
            fresh = CachedFile(
                path=self._folder("files") / f"{receipt.sha256}-{resource.name}",
                key=resource.key,
                sha256=receipt.sha256,
                size=receipt.size,
                date=_date(),
                url=receipt.url,
                etag=receipt.etag,
            )
            on_first_use = resource.sha256 is None and not trust_new
            recorded = self._write_record(fresh, replace_other=not on_first_use)
            share(path)
            publish(path, fresh.path)
        return recorded

    def _build(
        self, source: CachedFile, name: str, build: Callable[[CachedFile, Path], None]
    ) -> CachedFile:
        with temporary(self._folder("incoming"), Path(name).suffix) as path:
            build(source, path)
            with cache_errors(path):
                sha256, size = sha256_of(path), path.stat().st_size
            file = self._folder("files") / f"{sha256}-{name}"
            made = CachedFile(file, name, sha256, size, _date(), source=source.sha256)
            self._write_record(made, replace_other=True)
            share(path)
            publish(path, made.path)
        return made

    def _write_record(self, file: CachedFile, *, replace_other: bool) -> CachedFile:
        """Record `file`, and return the record that holds from now on.

        Two processes that both see a key for the first time may have been given different bytes.
        The first record stands then, lock or no lock.
        """
        path = self._record_path(file)
        facts = {key: value for key, value in asdict(file).items() if key != "path"}
        with temporary(self._folder("incoming")) as fresh:
            with cache_errors(fresh):
                fresh.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
            share(fresh)
            if replace_other:
                publish(fresh, path)
                return file
            if publish_new(fresh, path):
                return file
        standing = self._read_record(path)
        if standing is None or standing.sha256 != file.sha256:
            recorded = _first_use(standing) if standing else "It has just been removed."
            raise IntegrityError(
                f"{file.key} came as {described(file)} from {file.url}, but is on record with "
                f"another digest. {recorded}"
            )
        return standing

    def _record_path(self, file: CachedFile) -> Path:
        if file.source is None:
            return self._folder("records") / f"{_flat(file.key)}.json"
        return self._folder("derived") / f"{file.source}-{file.key}.json"

    def _quarantine(self, file: CachedFile) -> None:
        """Keep a damaged file for inspection, where it is in nobody's way.

        A link is enough: the sound file will replace the old one in a single step, so that nobody
        finds nothing in between.
        """
        place = self._folder("quarantine") / f"{file.path.name}"
        with suppress(OSError):  # keeping it is a courtesy
            place.unlink(missing_ok=True)
            place.hardlink_to(file.path)
        warnings.warn(
            f"{file.path} was damaged and is made or fetched again; the damaged file is kept in "
            f"{place.parent}.",
            stacklevel=5,
        )

    def _path(self, *parts: str) -> Path:
        return self.root.joinpath(self._layout, *parts)

    def _folder(self, name: str) -> Path:
        return make_folder(self.root, self._layout, name)


def _first_use(record: CachedFile) -> str:
    return (
        f"On record is {described(record)}, downloaded from {record.url} on {record.date}. If the "
        "change is meant to be, accept it with trust_new (--trust-new) or give its digest."
    )


def _flat(key: str) -> str:
    """A key as a file name; a percent sign cannot occur in a key."""
    return key.replace("/", "%2F")


def _date(timestamp: float | None = None) -> str:
    now = datetime.now(timezone.utc)
    moment = now if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc)
    return moment.isoformat(timespec="seconds")


def _exists(path: Path) -> bool:
    with cache_errors(path, "read"):
        return path.exists()


def _children(folder: Path) -> list[Path]:
    with cache_errors(folder, "read"), suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def _delete(path: Path) -> int:
    """Remove a file and return its size; one that is gone already counts nothing."""
    with cache_errors(path):
        try:
            size = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
    return size


def _migrate(root: Path) -> None:
    """Bring the newest older layout to the current one, each step appearing all at once."""
    older = [version for version in range(LAYOUT) if (root / f"v{version}").is_dir()]
    if not older:
        return
    for version in range(older[-1], LAYOUT):
        with temporary(root) as fresh, cache_errors(fresh):
            fresh.mkdir()
            MIGRATIONS[version](root / f"v{version}", fresh)
            move_unless_there(fresh, root / f"v{version + 1}")
