"""What the hub's tests run in processes of their own: several at once, killed, or as other users.

A fork server imports this module once, so that a process costs milliseconds. It imports all that
the hub imports lazily: another user may not be allowed to read this interpreter's modules.
"""

import encodings.idna  # noqa: F401
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import platformdirs  # noqa: F401
import tqdm  # noqa: F401

import allcnn_zoo.hub.http  # noqa: F401
from allcnn_zoo.hub import Cache, CachedFile, Policy, Resource

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])

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
    if user is not None and os.getuid() == 0:
        os.umask(0o077)
        os.setgroups([])
        os.setgid(USERS)
        os.setuid(user)


def build(source: CachedFile, destination: Path) -> None:
    """The conversion of these tests: recognisable, and logged where the test can count it."""
    content = source.path.read_bytes()
    if log := os.environ.get("BUILD_LOG"):
        with Path(log).open("a") as file:
            file.write("built\n")
    destination.write_bytes(content[::-1])


def derive(root: Path, resource: Resource, policy: Policy) -> bytes:
    """From an empty or filled cache to a converted file."""
    return (
        Cache(root, mirrors=(), policy=policy).derive(resource, "reversed.bin", build).read_bytes()
    )


def race(
    root: Path, resource: Resource, policy: Policy, threads: int, starters: int, lying_locks: bool
) -> list[bytes]:
    """Derive in several threads, as soon as all the processes are there."""
    if lying_locks:
        filelock.FileLock.acquire = lambda self: None  # type: ignore[assignment,method-assign]
        filelock.FileLock.release = lambda self, force=False: None  # type: ignore[method-assign]
    line = root.parent / "starting line"
    line.mkdir(exist_ok=True)
    (line / str(os.getpid())).touch()
    while len(list(line.iterdir())) < starters:
        time.sleep(0.005)
    results: list[bytes] = []

    def work() -> None:
        results.append(derive(root, resource, policy))

    group = [threading.Thread(target=work) for _ in range(threads)]
    for thread in group:
        thread.start()
    for thread in group:
        thread.join()
    return results


def fetch(root: Path, resource: Resource, policy: Policy) -> CachedFile:
    return Cache(root, mirrors=(), policy=policy).fetch(resource)


def hold_lock(path: Path, held: Path) -> None:
    """Hold a lock for as long as the process lives."""
    with filelock.FileLock(path):
        held.touch()
        time.sleep(60)
