"""A faulty server, and a hub that loses its patience quickly."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest

from allcnn_zoo.hub import Cache, Policy, Resource

from .faulty_server import BODY, FaultyServer, running
from .workers import SERVER

QUICK = Policy(retries=3, backoff=0.001, max_retry_after=3.0)
"""Tries again at once, but waits for answers as long as usual: machines that test are busy."""

IMPATIENT = replace(
    QUICK, read_timeout=0.5, response_timeout=1.0, stall_timeout=0.7, retries=5, connect_retries=5
)
"""For servers that are slow on purpose."""
KEY = "folder/file.bin"
PATH = f"/{KEY}"
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def online(monkeypatch) -> None:
    """The loopback interface is no network; proxies of the machine must not be asked for it."""
    monkeypatch.delenv("ALLCNN_ZOO_OFFLINE")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def own_fork_server(monkeypatch) -> None:
    """New processes come from the fork server of this folder's tests."""
    monkeypatch.setattr(forkserver, "connect_to_new_process", SERVER.connect_to_new_process)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A server whose answers the test scripts."""
    with running() as server:
        yield server


@pytest.fixture
def resource(server) -> Callable[..., Resource]:
    """Makes the resource at `PATH` on the server: digest and size published unless changed."""

    def make(**changes: object) -> Resource:
        facts = {"key": KEY, "url": server.url + PATH, "sha256": DIGEST, "size": len(BODY)}
        return Resource(**(facts | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def cache(tmp_path) -> Cache:
    """An empty cache without mirrors."""
    return Cache(tmp_path / "cache", mirrors=(), policy=QUICK)


def left_over(folder: Path) -> list[Path]:
    """Unfinished files anywhere below `folder`."""
    return sorted(folder.rglob(".partial-*"))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
