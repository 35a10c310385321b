"""Killed, raced, lied to and short of space: a cache is never left in a state that matters."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from allcnn_zoo import storage
from allcnn_zoo.errors import CacheError, DownloadError
from allcnn_zoo.hub import Cache, Resource, download, files

from . import workers
from .conftest import KEY, PATH, QUICK, arrived, get, left_over, pinned_or_not, until
from .faulty_server import BODY, OTHER, Wire, chunked, cut, raw, slowly, stall, status, whole

KILLS = int(os.environ.get("ALLCNN_ZOO_TEST_KILLS", "12"))
"""How often the default suite kills; the full test takes 200."""

DAY = 24 * 3600.0


def assert_sound(cache: Cache, resource: Resource) -> None:
    """The next use succeeds, and nothing of what went before is left."""
    assert cache.derive(resource, "reversed.bin", workers.build).read_bytes() == BODY[::-1]
    assert cache.fetch(resource).path.read_bytes() == BODY
    assert left_over(cache.root) == []
    assert [entry.key for entry in cache.entries()] == [resource.key, "reversed.bin"]
    assert all(intact for _, intact in cache.verify())
    assert cache.prune() == 0
    assert {path.name for path in (cache.root / "v1").iterdir()} == {
        *("files", "records", "derived", "incoming", "locks")
    }


@pinned_or_not
@pytest.mark.parametrize("lying_locks", [False, True], ids=["locks", "locks that lie"])
def test_processes_and_threads_make_one_request_and_one_conversion(
    lying_locks, pinned, server, resource, cache, tmp_path
) -> None:
    server.script(PATH, slowly())
    wanted = resource(pinned)
    with workers.processes(8) as pool:
        arguments = (cache.root, wanted, QUICK, 4, 8, lying_locks)
        races = [pool.submit(workers.race, *arguments) for _ in range(8)]
        results = [result for race in races for result in race.result()]
    assert results == [BODY[::-1]] * 32
    if lying_locks:
        assert len(server.requests) > 1, "the locks did not lie"
    else:
        assert len(server.requests) == 1
        assert (tmp_path / "log").read_text() == "built\n"
    assert_sound(cache, wanted)


def test_threads_that_want_the_same_place_make_one_request(server, resource, tmp_path) -> None:
    server.script(PATH, slowly())
    target = tmp_path / "file.bin"
    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(download, resource(), target, mirrors=(), policy=QUICK)
    assert target.read_bytes() == BODY
    assert len(server.requests) == 1


@contextlib.contextmanager
def started(function: Callable[..., object], *arguments: object) -> Iterator[ForkServerProcess]:
    """A process that has begun to run a function, which touches the file in its last argument."""
    process = workers.CONTEXT.Process(target=function, args=arguments)
    process.start()
    until(Path(str(arguments[-1])).exists)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def test_a_lock_that_is_never_released_delays_with_a_word_but_does_not_stop(
    server, resource, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(files, "SOON", 0.1)
    server.script(PATH, whole())
    impatient = Cache(tmp_path / "cache", mirrors=(), policy=replace(QUICK, lock_timeout=0.2))
    impatient.fetch(resource(key="warm-up"))
    lock = impatient.root / "v1/locks/folder%2Ffile.bin.lock"
    with started(workers.hold_lock, lock, tmp_path / "held"):
        assert impatient.fetch(resource()).path.read_bytes() == BODY
    assert caplog.messages == ["waiting for another process, which fetches file.bin"]


def test_sigkill_at_any_moment(server, resource, tmp_path) -> None:
    server.script(PATH, slowly())
    moments = random.Random(0)
    killed = 0
    for number in range(KILLS):
        wanted = resource(pinned=number % 2 == 1)
        cache = Cache(tmp_path / f"cache{number}", mirrors=(), policy=QUICK)
        arguments = (cache.root, wanted, QUICK, tmp_path / f"started{number}")
        with started(workers.derive_slowly, *arguments) as victim:
            time.sleep(moments.uniform(0, 0.08))
        killed += victim.exitcode == -signal.SIGKILL
        assert_sound(cache, wanted)
    assert killed > KILLS // 2, "most victims had finished: they were killed too late"


either_function = pytest.mark.parametrize(
    "function", [workers.derive_slowly, workers.download_slowly], ids=["cache", "download"]
)


@either_function
def test_ctrl_c_leaves_nothing(function, server, resource, tmp_path) -> None:
    server.script(PATH, stall(100_000))
    root = tmp_path / "place"
    with started(function, root, resource(), QUICK, tmp_path / "started") as victim:
        until(lambda: left_over(root))
        os.kill(victim.pid or 0, signal.SIGINT)
        victim.join(60)
    assert victim.exitcode == 1
    assert left_over(root) == []
    assert not any(path.name == "file.bin" for path in root.rglob("*"))


# An interrupted download of a file whose digest and size are known goes on in the next call.

LARGE = BODY * 10


@pytest.fixture
def large(server) -> Resource:
    """A file of 3 MB, of which 2 MB arrive."""
    url = server.script(PATH, stall(2_000_000, LARGE), whole(LARGE))
    return Resource(KEY, url, hashlib.sha256(LARGE).hexdigest(), len(LARGE))


def most_left(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # smaller ones come and go
        return max((path.stat().st_size for path in left_over(folder)), default=0)
    return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@either_function
def test_the_next_call_goes_on_whatever_ended_the_last(
    function, number, large, server, tmp_path
) -> None:
    root = tmp_path / "got"
    with started(function, root, large, QUICK, tmp_path / "started") as victim:
        until(lambda: most_left(root) >= 1_900_000)
        os.kill(victim.pid or 0, number)
        victim.join(60)
    if function is workers.download_slowly:
        get(large, tmp_path)
        assert (root / "file.bin").read_bytes() == LARGE
    else:
        assert workers.fetch(root, large, QUICK).path.read_bytes() == LARGE
    assert int(server.requests[-1].headers["range"][6:-1]) > 1_000_000
    assert left_over(root) == []


@pytest.fixture
def as_process_1() -> list[str]:
    """The command that makes another one process 1 of a namespace, as in a container."""
    for user in (["--user", "--map-root-user"], []):
        command = ["unshare", *user, "--pid", "--fork", "--mount-proc"]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    pytest.skip("may not make a process namespace")


def test_process_1_goes_on_after_sigterm_and_gets_the_right_bytes(
    as_process_1, server, resource, cache
) -> None:
    """The kernel keeps from process 1 every signal that it has no handler for."""
    terminated = threading.Event()

    def wait_and_go_on(wire: Wire) -> None:
        terminated.wait(60)
        wire.send(BODY[100_000:])

    server.script(PATH, whole(most=100_000, then=wait_and_go_on), status("404 Not Found"))
    program = f"""
import os
from pathlib import Path
from allcnn_zoo.hub import Cache, Resource
print(os.getpid(), Cache(Path({str(cache.root)!r}), mirrors=()).fetch({resource()!r}).sha256)
"""
    with subprocess.Popen(
        [*as_process_1, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        until(lambda: any(path.stat().st_size for path in left_over(cache.root)))
        (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        terminated.set()
        said, _ = process.communicate(timeout=60)
    assert said.split() == ["1", resource().sha256]
    assert cache.fetch(resource()).path.read_bytes() == BODY
    assert left_over(cache.root) == []


@pytest.fixture
def interrupted(large, server, tmp_path) -> Callable[..., Resource]:
    """Break a download off when 2 MB of a file are there."""

    def start(content: bytes = LARGE) -> Resource:
        server.script(PATH, cut(2_000_000, content))
        with pytest.raises(DownloadError):
            get(large, tmp_path, policy=replace(QUICK, retries=0))
        assert not (tmp_path / "got/file.bin").exists()
        return large

    return start


@pytest.mark.parametrize("mirrors", [(), ("/none", "/mirror")], ids=["official", "mirror"])
def test_the_next_call_goes_on_in_the_same_process_and_at_another_source(
    mirrors, interrupted, server, tmp_path
) -> None:
    wanted = interrupted()
    server.script(PATH, whole(LARGE, most=500_000))  # interrupted once more
    with pytest.raises(DownloadError):
        get(wanted, tmp_path, policy=replace(QUICK, retries=0))
    for place in (PATH, "/mirror" + PATH):
        server.script(place, whole(LARGE, etag=None))
    get(wanted, tmp_path, mirrors=[server.url + mirror for mirror in mirrors])
    assert server.requests[-1].headers["range"] == "bytes=2500000-"
    assert (tmp_path / "got/file.bin").read_bytes() == LARGE
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("answer", ["ranges", "whole", "416"])
def test_what_was_left_is_never_trusted(answer, interrupted, server, tmp_path) -> None:
    wanted = interrupted(bytes(len(LARGE)))
    refused = [status("416 Range Not Satisfiable")] if answer == "416" else []
    server.script(PATH, *refused, whole(LARGE, ranges=answer == "ranges"))
    get(wanted, tmp_path)
    assert (tmp_path / "got/file.bin").read_bytes() == LARGE


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
@pytest.mark.parametrize("place", ["got", "cache/v1/incoming"])
def test_what_a_planted_link_leads_to_is_neither_continued_nor_emptied(
    kind, place, large, cache, server, tmp_path
) -> None:
    server.script(PATH, whole(LARGE))
    (tmp_path / "victim").write_bytes(OTHER * 5)
    with subprocess.Popen(["true"]) as process:  # as if it had begun the download, and died
        process.wait()
    name = f".partial-{HERE}-{process.pid}-0123456789abcdef.of-{large.sha256[:24]}.bin"
    (tmp_path / place).mkdir(parents=True)
    getattr(tmp_path / place / name, kind)(tmp_path / "victim")
    get(large, tmp_path)
    assert cache.fetch(large).path.read_bytes() == arrived(tmp_path) == LARGE
    assert (tmp_path / "victim").read_bytes() == OTHER * 5
    assert left_over(tmp_path) == []


def test_what_was_left_is_not_kept_for_ever(interrupted, tmp_path) -> None:
    interrupted()
    (left,) = left_over(tmp_path)
    storage.sweep(left.parent)
    assert left.exists()
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    storage.sweep(left.parent)
    assert not left.exists()


# What a killed process leaves is swept, what a living one is at is not.


def rubbish(folder: Path, habitat: str, process: int, age: float = 0.0) -> Path:
    path = folder / f".partial-{habitat}-{process}-0123456789abcdef.bin"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half a file")
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return process.pid


HERE, ELSEWHERE = storage._habitat(), "0" * 12
DEAD = -1  # stands for the number of a process that has just ended


SWEPT = {
    "of a dead process": (HERE, DEAD, 0.0, False),
    "of a living process": (HERE, os.getppid(), 0.0, True),
    "of a living process, long ago": (HERE, os.getppid(), 2 * DAY, True),
    "of another machine": (ELSEWHERE, os.getpid(), 0.0, True),
    "of another machine, long ago": (ELSEWHERE, os.getpid(), 2 * DAY, False),
    "of another machine, in the future": (ELSEWHERE, os.getpid(), -2 * DAY, True),
}


@pytest.mark.parametrize(("habitat", "process", "age", "stays"), SWEPT.values(), ids=SWEPT)
def test_sweeps_only_what_nobody_will_finish(
    habitat, process, age, stays, server, resource, cache, tmp_path
) -> None:
    server.script(PATH, whole())
    process = dead_process() if process == DEAD else process
    in_cache = rubbish(cache.root / "v1/incoming", habitat, process, age)
    beside = rubbish(tmp_path / "got", habitat, process, age)
    cache.fetch(resource())
    get(resource(), tmp_path)
    assert in_cache.exists() == beside.exists() == stays


def test_sweeping_never_touches_files_of_the_user(tmp_path) -> None:
    names = {".partial", ".partial-notes", f".partial-{HERE}-1", "x.partial", ".partial-x-1-2.bin"}
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    storage.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names


# Short of space.


class DiskUsage(NamedTuple):
    free: int
    total: int = 10**9


@pytest.fixture
def tiny_disk(public_folder) -> Iterator[Cache]:
    """A cache on a file system of 200 KiB, smaller than the file."""
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(public_folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip("may not mount a tmpfs")
    yield Cache(public_folder / "cache", mirrors=(), policy=QUICK)
    subprocess.run(["umount", str(public_folder)], check=True)


FULL = r"The disk is full: free some space.*ALLCNN_ZOO_CACHE"


@pytest.mark.parametrize(
    ("behaviour", "lying", "words"),
    [
        (whole(), False, r"Not enough space in .*: 300,000 bytes are needed and"),
        (whole(), True, FULL),
        (chunked, False, FULL),
    ],
    ids=["before the download", "lying free space", "unknown size"],
)
def test_a_full_disk(behaviour, lying, words, server, resource, tiny_disk, monkeypatch) -> None:
    if lying:
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: DiskUsage(10**9))
    server.script(PATH, behaviour)
    with pytest.raises(CacheError, match=words):
        tiny_disk.fetch(resource(size=None))
    assert left_over(tiny_disk.root) == []
    assert len(server.requests) == 1, "a full disk is no reason to ask again"


def test_a_source_that_has_more_than_there_is_room_for_is_passed_over(
    server, resource, cache, monkeypatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: DiskUsage(10**6))
    server.script("/liar" + PATH, raw("Content-Length: 1900000000", BODY))
    server.script(PATH, whole())
    mirrored = Cache(cache.root, mirrors=[server.url + "/liar"], policy=QUICK)
    assert mirrored.fetch(resource(pinned=False)).path.read_bytes() == BODY


def test_a_conversion_that_fills_the_disk(server, resource, tiny_disk) -> None:
    small = BODY[:100_000]
    server.script(PATH, whole(small))
    unpinned = resource(pinned=False)
    with pytest.raises(CacheError, match="The disk is full: free some space"):
        tiny_disk.derive(unpinned, "doubled.bin", lambda _, place: place.write_bytes(small * 2))
    assert left_over(tiny_disk.root) == []
    assert tiny_disk.fetch(unpinned).path.read_bytes() == small


# A place of the caller's choice.


def test_a_file_that_is_there_is_not_fetched_again(server, resource, tmp_path) -> None:
    server.script(PATH, whole())
    target = tmp_path / "got" / "file.bin"
    get(resource(), tmp_path)
    assert download(resource(), target, mirrors=(), policy=QUICK) is None
    assert len(server.requests) == 1
    target.write_bytes(b"something else")
    get(resource(), tmp_path)
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_download_leaves_the_old_file(server, resource, tmp_path) -> None:
    (tmp_path / "got").mkdir()
    (tmp_path / "got/file.bin").write_bytes(b"precious")
    with pytest.raises(DownloadError):
        get(resource(), tmp_path)
    assert (tmp_path / "got/file.bin").read_bytes() == b"precious"


@pytest.mark.parametrize("place", ["folder", "file/below", "folder/"])
def test_something_in_the_way(place, server, resource, tmp_path) -> None:
    server.script(PATH, whole())
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="is in the way"):
        download(resource(), tmp_path / place, mirrors=(), policy=QUICK)
