"""What to fetch and how: published files, environment variables, timeouts and limits."""

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import CacheError, ResourceError
from ..storage import expanded

CACHE_VARIABLE = "ALLCNN_ZOO_CACHE"
MIRRORS_VARIABLE = "ALLCNN_ZOO_MIRRORS"
OFFLINE_VARIABLE = "ALLCNN_ZOO_OFFLINE"

_OFF = {"", "0", "false", "no", "off"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]{0,119}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_KEY = 200
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: C:\file is a path


@dataclass(frozen=True)
class Resource:
    """A published file.

    Attributes:
        key: Path below the bucket, the same under every mirror: ``"folder/file.bin"``. None for
            a file that is only at `url`: then mirrors are not tried.
        url: The official address, tried after the mirrors: ``https://``, ``http://``,
            ``file://`` or a local path.
        sha256: Digest in lower-case hex. None if none was published: then the digest of the first
            download is recorded and expected from then on.
        size: Size in bytes, if known.

    Raises:
        ResourceError: The address is not supported, the key is not a plain relative path, or the
            digest or size is malformed.
    """

    key: str | None = None
    url: str = ""
    sha256: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if problem := address_problem(self.url):
            raise ResourceError(f"{redacted(self.url)!r:.200}: {problem}")
        check_key(self.cache_key)
        if self.sha256 is not None and not is_sha256(self.sha256):
            raise ResourceError(f"not a sha256 in 64 lower-case hex digits: {self.sha256!r:.99}")
        if self.size is not None and self.size < 0:
            raise ResourceError(f"negative size: {self.size}")

    @property
    def cache_key(self) -> str:
        """The name of its record in the cache: the key, else one made from the address."""
        if self.key is not None:
            return self.key
        if is_url(self.url):
            place, path = self.url, unquote(urlsplit(self.url).path)
        else:  # a relative path means another file in another folder
            place = path = str(expanded(self.url).absolute())
        # What follows a semicolon may be a signature.
        last = re.split(r"[/\\]", path.rstrip("/\\"))[-1].partition(";")[0]
        name = re.sub(r"[^A-Za-z0-9_.+@=-]", "_", last)
        digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{digest[:16]}/{name[-100:].lstrip('.-+@=') or 'file'}"

    @property
    def name(self) -> str:
        """The last part of the cache's key: the name of the file."""
        return self.cache_key.rpartition("/")[2]


def check_key(key: str) -> None:
    """Raise a `ResourceError` unless `key` is a plain relative path, short enough for a name."""
    for name in key.split("/"):
        check_name(name)
    if len(key.replace("/", "%2F")) > _LONGEST_KEY:
        raise ResourceError(f"too long for the name of a record: {key!r:.300}")


def check_name(name: str) -> None:
    """Raise a `ResourceError` unless `name` is a plain file name on every system."""
    if not _NAME.fullmatch(name):
        raise ResourceError(f"not a plain name of letters, digits and _.+@=-: {name!r:.200}")


def is_sha256(text: object) -> bool:
    """Whether this is a digest: 64 lower-case hex digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def is_url(place: str) -> bool:
    """Whether `place` is an address with a scheme rather than a local path."""
    return _SCHEME.match(place) is not None


def is_local(place: str) -> bool:
    """Whether `place` can be read without the network."""
    return not is_url(place) or place[:5].lower() == "file:"


def address_problem(place: str) -> str | None:
    """Why nothing can be fetched from `place`; None if it is a path or a supported address."""
    if is_local(place):
        return None if place else "no address"
    try:
        if place[:5].lower() in {"http:", "https"} and urlsplit(place).hostname:
            return None
    except ValueError:  # whose text may repeat a password
        return "not a valid address"
    return "not supported: use https://host/..., http://host/..., file:///... or a local path"


def redacted(place: str) -> str:
    """`place` without passwords and signatures, for error messages and records."""
    if not is_url(place):
        return place
    scheme, host, tail = re.findall(r"(?s)^([^:]*:/*)([^/?#]*)(.*)", place)[0]
    if ":" in host and "@" in tail:  # a password that contains one of /?#
        return f"{scheme}..."
    return f"{scheme}{host.rpartition('@')[2]}{re.split('[?#;]', tail)[0]}"


def cache_root() -> Path:
    """The folder of the cache: ``ALLCNN_ZOO_CACHE``, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen and not str(expanded(chosen)).startswith("~"):
        return expanded(chosen).absolute()
    import platformdirs  # only when it is needed: with the variable, the cache opens faster

    with suppress(RuntimeError, KeyError):  # neither HOME nor an entry in the list of users
        root = platformdirs.user_cache_path("allcnn_zoo", appauthor=False)
        if root.is_absolute() and not chosen:
            return root
    of = f" like {chosen!r}" if chosen else " for a cache"
    raise CacheError(f"There is no home folder{of}. Set {CACHE_VARIABLE} to a folder.")


def mirrors() -> tuple[str, ...]:
    """The base URLs or folders of ``ALLCNN_ZOO_MIRRORS``, comma-separated, in order."""
    bases = os.environ.get(MIRRORS_VARIABLE, "").split(",")
    return tuple(base.strip() for base in bases if base.strip())


def offline() -> bool:
    """Whether ``ALLCNN_ZOO_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in _OFF


@dataclass(frozen=True)
class Policy:
    """Timeouts and limits. All times are in seconds.

    Attributes:
        response_timeout: From a request to the end of its headers, redirects included.
        stall_timeout: For each 64 KiB of the body; a slower transfer counts as stalled.
        source_timeout: Total for one source.
        retries: Further attempts at one URL; they start again after each new mebibyte.
        backoff: The wait before the second retry, which then doubles.
        max_size: Largest accepted file if no size was published.
        lock_timeout: How long to wait for another process that fetches the same file.
    """

    response_timeout: float = 8.0
    stall_timeout: float = 15.0
    source_timeout: float = 6 * 3600.0
    retries: int = 4
    backoff: float = 0.5
    max_size: int = 2**31
    lock_timeout: float = 600.0


DEFAULT_POLICY = Policy()
