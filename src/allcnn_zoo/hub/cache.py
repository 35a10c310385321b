"""The cache: verified files by digest, with a record of their origin.

The layout below the root is shown in docs/hub.md.

Finding a file only reads, so a filled cache works on a read-only disk and without a network.
Every change is one atomic rename, so readers need no lock, and a lost lock does no harm.
A record is written before its file: a record without a file only states the expected digest.
"""

import json
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import CacheError, IntegrityError
from ..storage import expanded, sweep, temporary
from . import settings
from .download import CachedFile, Check, Session, Sources, arriving, timestamp
from .files import cache_errors, hold, make_folder, publish, sha256_of
from .settings import DEFAULT_POLICY, Policy, Resource, check_key, check_name, is_sha256
from .sources import Failures

_LAYOUT = "v1"
_LARGEST_RECORD = 1 << 20

_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache: backups need not include it. See https://bford.info/cachedir/
"""

Build = Callable[[CachedFile, Path], object]
"""Makes a file from another: reads the first one's `path` and writes the second."""


class Cache:
    """Verified files on disk, fetched once for any number of processes and threads.

    Args:
        root: Its folder; ``ALLCNN_ZOO_CACHE`` or the user's cache folder if None.
        session: A `requests.Session` for networks that need more than environment variables. Its
            headers, cookies and login are sent to the mirrors' hosts or, without mirrors, to the
            host of the file's own address, and nowhere else.
        mirrors: Base URLs or folders tried first; ``ALLCNN_ZOO_MIRRORS`` if None.
        offline: Whether only the cache and local files may be used; ``ALLCNN_ZOO_OFFLINE``
            if None.
        policy: Timeouts and limits.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        session: Session | None = None,
        mirrors: Sequence[str] | None = None,
        offline: bool | None = None,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self.root = settings.cache_root() if root is None else expanded(root).absolute()
        self._sources = Sources(mirrors, offline, session, policy)

    def fetch(
        self,
        resource: Resource,
        *,
        progress: bool = True,
        check: Callable[[Path], object] | None = None,
        trust_new: bool = False,
        retry_failed: bool = True,
    ) -> CachedFile:
        """Return a verified copy of `resource`, from the cache or else from its sources.

        Its digest is checked every time. A damaged copy is quarantined and fetched again, with a
        warning. Without a published digest, that of the first download is recorded and expected
        from then on. Local files and ``file://`` addresses are copied and checked like all others.

        Args:
            resource: The file to get.
            progress: Whether to show a bar on a terminal.
            check: Called with the path of a new download before it is recorded. If it raises an
                `AllCNNZooError`, the file is refused, and the next source is tried.
            trust_new: Accept and record another digest than the recorded one, if the file has to
                be fetched. A published digest must always match.
            retry_failed: Whether to try sources again that failed in the last ten minutes, in this
                process or another. If False, they are skipped.

        Raises:
            OfflineError: It is not in the cache, and the network may not be used.
            DownloadError: No source delivers it.
            IntegrityError: The sources deliver other bytes than the published or recorded ones.
            CacheError: The cache cannot be read or written.
        """
        look = None if check is None else lambda file: check(file.path)
        options = progress, trust_new, retry_failed
        return self._find_or_make(resource, None, lambda: self._download(resource, look, *options))

    def derive(
        self,
        resource: Resource,
        name: str,
        build: Build,
        *,
        progress: bool = True,
        trust_new: bool = False,
        retry_failed: bool = True,
    ) -> Path:
        """Return a file made from `resource`: made once, then kept in the cache.

        Its own digest is checked every time; a damaged file is made again, with a warning. As long
        as it is intact, the original is neither needed nor read.

        A new download is recorded only after `build` has accepted it, so validation and conversion
        need one pass: if `build` raises an `AllCNNZooError`, the file is refused, and the next
        source is tried. It may be called again, with another file.

        Args:
            resource: The original; fetched if necessary.
            name: The name of the new file. A new version of `build` needs a new name.
            build: Called with the source, whose `path`, `sha256` and `url` are set, and the path
                of the file to write.
            progress: As in `fetch`, like the other options.
            trust_new: As in `fetch`.
            retry_failed: As in `fetch`.

        Raises:
            HubError: As in `fetch`; a `CacheError` also for an `OSError` of `build`, such as a
                full disk. Whatever else `build` raises is passed on.
        """
        check_name(name)
        options = progress, trust_new, retry_failed
        made = self._find_or_make(
            resource, name, lambda: self._build(resource, name, build, *options)
        )
        return made.path

    def entries(self) -> list[CachedFile]:
        """Every recorded file that is still there, ordered by key."""
        files = set(_children(self._path("files")))
        entries = [record for record in self._records() if record.path in files]
        return sorted(entries, key=lambda entry: (entry.key, entry.sha256))

    def verify(self) -> Iterator[tuple[CachedFile, bool]]:
        """Check every file of `entries`; yield each with whether it is intact."""
        for entry in self.entries():
            yield entry, self._is_intact(entry)

    def remove(self, key: str, *, forget: bool = False) -> int:
        """Remove the files of a key, or of a derived file's name, and all files made from them.

        The recorded digest stays, so the next download must match it.

        Args:
            key: As in `entries`.
            forget: Also remove the record, so that any next download is trusted.

        Returns:
            Freed bytes.

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
                _delete(self._record(record.key, record.source))
        return freed

    def prune(self) -> int:
        """Remove files without a record, damaged files, and leftovers of killed processes.

        Returns:
            Freed bytes.

        Raises:
            CacheError: The cache cannot be written.
        """
        sweep(self._path("incoming"))
        # Listed before the records: a file that arrives in between has its record already.
        files = _children(self._path("files"))
        recorded = {record.path for record in self._records()}
        strays = [path for path in files if path not in recorded]
        for path in _children(self._path("failures")):
            _delete(path)
        return sum(map(_delete, [*strays, *_children(self._path("quarantine"))]))

    # Finding a file only reads.

    def _find(
        self, resource: Resource, name: str | None = None, *, is_locked: bool = False
    ) -> CachedFile | None:
        """The intact file of `resource`, or the one called `name` that was made from it."""
        file = source = self._expected(resource)
        if name is not None and source is not None:
            file = None
            with suppress(CacheError):  # a damaged record: it is made anew
                file = self._read(self._record(name, source.sha256))
        if file is None or self._is_intact(file):
            return file
        if is_locked and file.path.exists():
            self._quarantine(file)
        return None

    def _expected(self, resource: Resource) -> CachedFile | None:
        """The recorded file for `resource`; None if it was never fetched."""
        record = self._record(resource.cache_key)
        if resource.sha256 is None:
            return self._read(record)
        with suppress(CacheError):
            recorded = self._read(record)
            if recorded is not None and recorded.sha256 == resource.sha256:
                return recorded
        path = self._place(resource.sha256, resource.name)
        with cache_errors(path, "read"):
            if not path.is_file():
                return None
            facts = path.stat()
        date = timestamp(facts.st_mtime)
        return CachedFile(path, resource.cache_key, resource.sha256, facts.st_size, date)

    def _is_intact(self, file: CachedFile) -> bool:
        with cache_errors(file.path, "read"), suppress(FileNotFoundError):
            return file.path.is_file() and sha256_of(file.path) == file.sha256
        return False

    def _records(self) -> list[CachedFile]:
        records = []
        for path in _children(self._path("records")) + _children(self._path("derived")):
            with suppress(CacheError):
                records.append(self._read(path))
        return [record for record in records if record is not None]

    def _read(self, path: Path) -> CachedFile | None:
        with cache_errors(path, "read"):
            try:
                facts = path.lstat()
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST_RECORD:
                    raise CacheError(f"{path} is not a regular file, or too large: remove it.")
                text = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            record: dict[str, Any] = json.loads(text)
            name = record["key"].rpartition("/")[2]
            file = CachedFile(path=self._place(record["sha256"], name), **record)
            check_key(file.key)  # it and the two digests become parts of paths
            is_sound = is_sha256(file.sha256) and (file.source is None or is_sha256(file.source))
            if is_sound and type(file.size) is int and datetime.fromisoformat(file.date):
                return file
        raise CacheError(
            f"{path} is damaged, so the expected digest is lost. Remove it to trust the next "
            "download, or give the digest."
        )

    # Changes happen under a lock, one atomic rename at a time.

    def _find_or_make(
        self, resource: Resource, name: str | None, make: Callable[[], CachedFile]
    ) -> CachedFile:
        if found := self._find(resource, name):
            return found
        sweep(self._folder("incoming"))
        lock = self._folder("locks") / f"{_flat(resource.cache_key)}.lock"
        timeout = self._sources.policy.lock_timeout
        with hold(lock, timeout, f"fetches {resource.name}"):
            tag = self.root / "CACHEDIR.TAG"
            if not tag.exists():
                self._write(tag, _TAG)
            return self._find(resource, name, is_locked=True) or make()

    def _download(
        self,
        resource: Resource,
        check: Check | None,
        progress: bool,
        trust_new: bool,
        retry_failed: bool,
    ) -> CachedFile:
        on_first_use = resource.sha256 is None and not trust_new
        trusted = self._expected(resource) if on_first_use else None
        wanted = replace(resource, sha256=trusted.sha256) if trusted else resource
        with arriving(self._folder("incoming"), wanted) as path:
            fresh = self._sources.retrieve(
                wanted,
                path,
                progress=progress,
                check=check,
                because=f"{_first_use(trusted)}\n" if trusted else "",
                failures=Failures(self._path("failures"), self._write, retry_failed),
            )
            kept = replace(fresh, path=self._place(fresh.sha256, resource.name))
            return self._keep(path, kept, replace_other=not on_first_use)

    def _build(self, resource: Resource, name: str, build: Build, *options: bool) -> CachedFile:
        with temporary(self._folder("incoming"), Path(name).suffix) as path:

            def convert(file: CachedFile) -> None:
                with cache_errors(self.root):
                    path.unlink(missing_ok=True)  # of a source that was refused
                    build(file, path)

            source = self._find(resource, is_locked=True)
            if source is not None:
                convert(source)
            else:
                source = self._download(resource, convert, *options)
            with cache_errors(self.root):
                sha256, size = sha256_of(path), path.stat().st_size
            place = self._place(sha256, name)
            made = CachedFile(place, name, sha256, size, timestamp(), source=source.sha256)
            return self._keep(path, made, replace_other=True)

    def _keep(self, path: Path, file: CachedFile, *, replace_other: bool) -> CachedFile:
        """Record `file`, then publish it. If two processes record a new key, the first one wins."""
        record = self._record(file.key, file.source)
        standing = None if replace_other else self._read(record)
        if standing is None:
            facts = {key: value for key, value in asdict(file).items() if key != "path"}
            self._write(record, json.dumps(facts, indent=2) + "\n")
        elif standing.sha256 != file.sha256:
            raise IntegrityError(
                f"{file.key} came as {file} from {file.url}, but is on record with "
                f"another digest. {_first_use(standing)}"
            )
        self._folder("files")
        publish(path, file.path)
        return standing or file

    def _write(self, path: Path, text: str) -> None:
        make_folder(self.root, path.parent)
        with temporary(self._folder("incoming")) as fresh:
            with cache_errors(path):
                fresh.write_text(text, "utf-8")
            publish(fresh, path)

    def _quarantine(self, file: CachedFile) -> None:
        """Keep a damaged file, as a hard link, because the sound file needs its name."""
        place, kept = self._folder("quarantine") / file.path.name, ""
        with suppress(OSError):  # nothing depends on the copy
            place.unlink(missing_ok=True)
            place.hardlink_to(file.path)
            kept = f"; the damaged file is kept in {place.parent}"
        warnings.warn(f"{file.path} was damaged and is made or fetched again{kept}.", stacklevel=6)

    def _record(self, key: str, source: str | None = None) -> Path:
        """The path of the record of a download, or of a file made from the digest `source`."""
        if source is None:
            return self._path("records", f"{_flat(key)}.json")
        return self._path("derived", f"{source}-{key}.json")

    def _place(self, sha256: str, name: str) -> Path:
        return self._path("files", f"{sha256}-{name}")

    def _path(self, folder: str, *parts: str) -> Path:
        """A path in the cache. A folder that is a link is refused: its files are elsewhere."""
        layout = self.root / _LAYOUT
        for place in (layout, layout / folder):
            with cache_errors(place, "read"):
                if place.is_symlink():
                    raise CacheError(f"{place} is a link, and a cache has none: remove it.")
        return layout.joinpath(folder, *parts)

    def _folder(self, name: str) -> Path:
        return make_folder(self.root, self._path(name))


def _first_use(record: CachedFile) -> str:
    return (
        f"On record is {record}, downloaded from {record.url} on {record.date}. If the "
        "change is intended, accept it with trust_new (--trust-new) or give its digest."
    )


def _flat(key: str) -> str:
    """Turn a key into a file name. No key contains a percent sign, so names are distinct."""
    return key.replace("/", "%2F")


def _children(folder: Path) -> list[Path]:
    with cache_errors(folder, "read"), suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def _delete(path: Path) -> int:
    """Remove a file and return its size, 0 if it is already gone."""
    with cache_errors(path), suppress(FileNotFoundError):
        size = path.lstat().st_size
        path.unlink()
        return size
    return 0
