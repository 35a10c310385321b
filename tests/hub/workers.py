"""What the hub's tests run in processes of their own: several at once, killed, or as other users.

A fork server imports this module once, so that a process costs milliseconds. It imports all that
the hub imports lazily: another user may not be allowed to read this interpreter's modules.
"""

import encodings.ascii
import encodings.idna  # noqa: F401
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.forkserver import ForkServer
from pathlib import Path
from typing import Any

import filelock
import platformdirs  # noqa: F401
import tqdm  # noqa: F401

import allcnn_zoo.hub.http  # noqa: F401
from allcnn_zoo.hub import Cache, CachedFile, Policy, Resource, download

CONTEXT = multiprocessing.get_context("forkserver")
SERVER = ForkServer()
"""A fork server of our own: that of multiprocessing has the modules and the environment of whoever
used it first. `conftest.py` puts it in place."""
SERVER.set_forkserver_preload([__name__])

NOBODY, DAEMON, USERS = 65534, 1, 100


@contextmanager
def processes(number: int, user: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Processes that run functions of this module, as another user where that is possible."""
    with ProcessPoolExecutor(number, CONTEXT, initializer=become, initargs=(user,)) as pool:
        yield pool


def run_as(user: int, function: Callable[..., Any], *args: object) -> Any:
    """Run one function as another user, with an umask that shuts everybody else out."""
    with processes(1, user) as pool:
        return pool.submit(function, *args).result()


def become(user: int | None) -> None:
    for name in [name for name in os.environ if name.startswith("ALLCNN_ZOO_")]:
        del os.environ[name]  # of the test that started the server
    if user is not None and os.getuid() == 0:
        os.umask(0o077)
        os.setgroups([])
        os.setgid(USERS)
        os.setuid(user)


def build(source: CachedFile, destination: Path) -> None:
    """The conversion of these tests."""
    destination.write_bytes(source.path.read_bytes()[::-1])


def logged_build(log: Path, source: CachedFile, destination: Path) -> None:
    """The same, leaving a line where the test can count it."""
    with log.open("a") as file:
        file.write("built\n")
    build(source, destination)


def fetch(root: Path, resource: Resource, policy: Policy) -> CachedFile:
    return Cache(root, mirrors=(), policy=policy).fetch(resource)


def derive(
    root: Path, resource: Resource, policy: Policy, build: Callable[..., object] = build
) -> bytes:
    """From an empty or filled cache to a converted file."""
    cache = Cache(root, mirrors=(), policy=policy)
    return cache.derive(resource, "reversed.bin", build).read_bytes()


def race(
    root: Path, resource: Resource, policy: Policy, threads: int, starters: int, lying_locks: bool
) -> list[bytes]:
    """Derive in several threads, as soon as all the processes are there."""
    if lying_locks:
        filelock.FileLock.acquire = lambda self, timeout=None: None  # type: ignore[assignment,method-assign]
        filelock.FileLock.release = lambda self, force=False: None  # type: ignore[method-assign]
    line = root.parent / "starting line"
    line.mkdir(exist_ok=True)
    (line / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(line.iterdir())) < starters:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    logged = functools.partial(logged_build, root.parent / "log")
    with ThreadPoolExecutor(threads) as pool:
        works = [pool.submit(derive, root, resource, policy, logged) for _ in range(threads)]
    return [work.result() for work in works]


def derive_slowly(root: Path, resource: Resource, policy: Policy, started: Path) -> None:
    """Derive with a conversion that takes its time, for somebody who wants to interrupt it."""

    def build_slowly(source: CachedFile, destination: Path) -> None:
        content = source.path.read_bytes()[::-1]
        with destination.open("wb", buffering=0) as file:
            for start in range(0, len(content), 50_000):
                file.write(content[start : start + 50_000])
                time.sleep(0.002)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    started.touch()
    derive(root, resource, policy, build_slowly)


def download_slowly(root: Path, resource: Resource, policy: Policy, started: Path) -> None:
    """Download to a place of one's own, for somebody who wants to interrupt it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started.touch()
    download(resource, root / "file.bin", mirrors=(), policy=policy)


def look_into(root: Path) -> None:
    """Find out what is in a cache."""
    Cache(root).entries()


def prune(root: Path) -> int:
    return Cache(root).prune()


def hold_lock(path: Path, held: Path) -> None:
    """Hold a lock for as long as the process lives."""
    with filelock.FileLock(path):
        held.touch()
        time.sleep(60)
