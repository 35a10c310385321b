"""What the user decides: three environment variables, and how patient the hub is."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import CacheError

CACHE_VARIABLE = "ALLCNN_ZOO_CACHE"
MIRRORS_VARIABLE = "ALLCNN_ZOO_MIRRORS"
OFFLINE_VARIABLE = "ALLCNN_ZOO_OFFLINE"

_OFF = {"", "0", "false", "no", "off"}


def cache_root() -> Path:
    """The folder of the cache: ``ALLCNN_ZOO_CACHE``, else the user's cache folder.

    Raises:
        CacheError: The variable names the home of somebody who has none.
    """
    if chosen := os.environ.get(CACHE_VARIABLE, "").strip():
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise CacheError(
                f"{CACHE_VARIABLE} is {chosen!r}, but there is no such home folder. Set it to "
                "another folder."
            ) from error
    import platformdirs  # only when it is needed: the variable is the faster road

    return platformdirs.user_cache_path("allcnn_zoo", appauthor=False)


def mirrors() -> tuple[str, ...]:
    """The base URLs or folders of ``ALLCNN_ZOO_MIRRORS``, comma-separated, in order."""
    bases = os.environ.get(MIRRORS_VARIABLE, "").split(",")
    return tuple(base.strip() for base in bases if base.strip())


def offline() -> bool:
    """Whether ``ALLCNN_ZOO_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in _OFF


@dataclass(frozen=True)
class Policy:
    """How patient the hub is. All times are in seconds.

    Attributes:
        connect_timeout: To connect to one address.
        read_timeout: Silence between two arrivals of data.
        response_timeout: From a request to the last of its headers, name resolution and
            redirects included.
        stall_timeout: For each 64 KiB of the body: a slower drip counts as stalled.
        retries: Further attempts at one URL. An attempt that brought a new mebibyte
            renews them, so that a long file can cross a bad line.
        connect_retries: Further attempts at a host that cannot be reached at all.
        backoff: The wait before the second retry; it doubles from there.
        max_backoff: The longest wait between two attempts.
        max_retry_after: The longest wait a server may ask for; if it asks for more, the next
            source is tried.
        max_size: Largest file accepted where neither catalogue nor server states a size.
        lock_timeout: Wait for another process that fetches the same file. After that the
            work is done twice, which is harmless.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 20.0
    response_timeout: float = 30.0
    stall_timeout: float = 30.0
    retries: int = 4
    connect_retries: int = 1
    backoff: float = 0.5
    max_backoff: float = 30.0
    max_retry_after: float = 120.0
    max_size: int = 2**31
    lock_timeout: float = 600.0


DEFAULT_POLICY = Policy()
