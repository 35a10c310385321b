"""What the faulty server has, and a hub that loses its patience quickly."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest

from allcnn_zoo.hub import Cache, CachedFile, Policy, Resource, download

from .faulty_server import BODY
from .workers import SERVER

QUICK = Policy(retries=3, backoff=0.001)
"""Tries again at once, but waits for answers as long as usual: machines that test are busy."""

IMPATIENT = replace(QUICK, response_timeout=0.7, stall_timeout=0.4, retries=5)
"""For servers that are slow on purpose."""

KEY = "folder/file.bin"
PATH = f"/{KEY}"
DIGEST = hashlib.sha256(BODY).hexdigest()

pinned_or_not = pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "first use"])
"""With a published digest and size, or without."""


NO_FILE: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}
"""Makes what is no file, and might be waited for."""


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
def resource(server) -> Callable[..., Resource]:
    """Makes the resource at `PATH` on the server: digest and size published unless changed."""

    def make(pinned: bool = True, **changes: object) -> Resource:
        facts = {"key": KEY, "url": server.url + PATH}
        published = {"sha256": DIGEST, "size": len(BODY)} if pinned else {}
        return Resource(**(facts | published | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def cache(tmp_path) -> Cache:
    """An empty cache without mirrors."""
    return Cache(tmp_path / "cache", mirrors=(), policy=QUICK)


def get(resource: Resource, folder: Path, **options: object) -> CachedFile:
    """Download `resource` to ``got/file.bin`` below `folder`, where it must not be yet."""
    target = folder / "got" / "file.bin"
    options = {"mirrors": (), "policy": QUICK} | options
    receipt = download(resource, target, **options)  # type: ignore[arg-type]
    assert receipt is not None
    assert receipt.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    return receipt


def arrived(folder: Path) -> bytes | None:
    """What there is after `get`: the file alone, or nothing at all."""
    names = [path.name for path in (folder / "got").iterdir()]
    assert names in ([], ["file.bin"])
    return (folder / "got" / "file.bin").read_bytes() if names else None


def until(happened: Callable[[], object]) -> None:
    """Wait for something that has to happen."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def left_over(folder: Path) -> list[Path]:
    """Unfinished files anywhere below `folder`."""
    return sorted(folder.rglob(".partial-*"))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
