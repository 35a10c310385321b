"""Killed, raced, lied to and short of space: a cache is never left in a state that matters."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from allcnn_zoo import storage
from allcnn_zoo.errors import CacheError, DownloadError
from allcnn_zoo.hub import Cache, Resource, download, files

from . import workers
from .conftest import IMPATIENT, KEY, PATH, QUICK, left_over
from .faulty_server import (
    BODY,
    Behaviour,
    FaultyServer,
    Request,
    Wire,
    chunked,
    raw,
    stall,
    status,
    whole,
)

Make = Callable[..., Resource]

KILLS = int(os.environ.get("ALLCNN_ZOO_TEST_KILLS", "24"))
"""How often the default suite kills; the full test takes 200."""

DAY = 24 * 3600.0


def slowly(request: Request, wire: Wire) -> None:
    """The whole body in small steps, so that there is a middle to be killed in."""
    wire.head("200 OK", Content_Length=len(BODY), ETag='"v1"')
    for start in range(0, len(BODY), 20_000):
        wire.send(BODY[start : start + 20_000])
        time.sleep(0.002)


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


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "first use"])
def test_sixteen_processes_of_four_threads_make_one_request_and_one_conversion(
    pinned, server, resource, cache, tmp_path
) -> None:
    server.script(PATH, slowly)
    wanted = resource() if pinned else resource(sha256=None, size=None)
    log = tmp_path / "log"
    with workers.processes(16) as pool:
        races = [
            pool.submit(workers.race, cache.root, wanted, QUICK, 4, 16, False, log)
            for _ in range(16)
        ]
        results = [result for race in races for result in race.result()]
    assert results == [BODY[::-1]] * 64
    assert len(server.requests) == 1
    assert log.read_text() == "built\n"
    assert_sound(cache, wanted)


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "first use"])
def test_locks_that_lie(pinned, server, resource, cache, tmp_path) -> None:
    server.script(PATH, slowly)
    wanted = resource() if pinned else resource(sha256=None, size=None)
    log = tmp_path / "log"
    with workers.processes(8) as pool:
        races = [
            pool.submit(workers.race, cache.root, wanted, QUICK, 2, 8, True, log) for _ in range(8)
        ]
        results = [result for race in races for result in race.result()]
    assert results == [BODY[::-1]] * 16
    assert len(server.requests) > 1, "the locks did not lie"
    assert_sound(cache, wanted)


def test_a_lock_that_is_never_released_delays_with_a_word_but_does_not_stop(
    server, resource, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(files, "SOON", 0.1)
    server.script(PATH, whole())
    impatient = Cache(tmp_path / "cache", mirrors=(), policy=replace(QUICK, lock_timeout=0.2))
    impatient.fetch(resource(key="warm-up"))
    lock = impatient.root / "v1/locks/folder%2Ffile.bin.lock"
    holder = workers.CONTEXT.Process(target=workers.hold_lock, args=(lock, tmp_path / "held"))
    holder.start()
    until((tmp_path / "held").exists)
    try:
        assert impatient.fetch(resource()).path.read_bytes() == BODY
        assert caplog.messages == ["waiting for another process, which fetches file.bin"]
    finally:
        holder.kill()
        holder.join()


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_sigkill_at_any_moment(server, resource, tmp_path) -> None:
    server.script(PATH, slowly)
    moments = random.Random(0)
    killed = 0
    for number in range(KILLS):
        wanted = resource() if number % 2 else resource(sha256=None, size=None)
        cache = Cache(tmp_path / f"cache{number}", mirrors=(), policy=QUICK)
        started = tmp_path / f"started{number}"
        victim = workers.CONTEXT.Process(
            target=workers.derive_slowly, args=(cache.root, wanted, QUICK, started)
        )
        victim.start()
        until(started.exists)
        time.sleep(moments.uniform(0, 0.08))
        victim.kill()
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        assert_sound(cache, wanted)
    assert killed > KILLS // 2, "most victims had finished: they were killed too late"


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 1)],
    ids=["SIGTERM", "Ctrl-C"],
)
@pytest.mark.parametrize("function", [workers.derive_slowly, workers.download_slowly])
def test_a_polite_end_leaves_nothing(
    function, number, exit_code, server, resource, tmp_path
) -> None:
    server.script(PATH, stall(100_000))
    root = tmp_path / "place"
    victim = workers.CONTEXT.Process(
        target=function, args=(root, resource(), QUICK, tmp_path / "started")
    )
    victim.start()
    until((tmp_path / "started").exists)
    until(lambda: left_over(root))
    assert victim.pid is not None
    os.kill(victim.pid, number)
    victim.join(60)
    assert victim.exitcode == exit_code
    assert left_over(root) == []
    assert not any(path.name == "file.bin" for path in root.rglob("*"))


def test_sigterm_is_left_to_programs_that_have_their_own_plans(server, resource, tmp_path) -> None:
    server.script(PATH, whole())
    received = tmp_path / "received"
    arguments = (tmp_path / "cache", resource(), QUICK, received)
    program = workers.CONTEXT.Process(target=workers.derive_with_own_plans, args=arguments)
    program.start()
    program.join(60)
    assert program.exitcode == 0
    assert received.read_text() == f"{int(signal.SIGTERM)}\n"


def test_downloads_in_other_threads_do_not_touch_signals(server, resource, cache) -> None:
    server.script(PATH, whole())
    thread = threading.Thread(target=cache.fetch, args=(resource(),))
    thread.start()
    thread.join()
    assert cache.fetch(resource()).path.read_bytes() == BODY
    assert len(server.requests) == 1


# An interrupted download of a file whose digest and size are known goes on in the next call.

LARGE = BODY * 10
LARGE_DIGEST = hashlib.sha256(LARGE).hexdigest()


def large(server: FaultyServer, *behaviours: Behaviour) -> Resource:
    return Resource(KEY, server.script(PATH, *behaviours), LARGE_DIGEST, len(LARGE))


def stuck_at(after: int, body: bytes = LARGE) -> Behaviour:
    def answer(request: Request, wire: Wire) -> None:
        wire.head("200 OK", Content_Length=len(LARGE), ETag='"v1"')
        wire.send(body[:after])
        wire.hang()

    return answer


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # it may have moved to its place meanwhile
        return path.stat().st_size
    return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("function", [workers.derive_slowly, workers.download_slowly])
def test_the_next_call_goes_on_whatever_ended_the_last(function, number, server, tmp_path) -> None:
    wanted = large(server, stuck_at(2_000_000), whole(LARGE))
    root = tmp_path / "place"
    victim = workers.CONTEXT.Process(target=function, args=(root, wanted, QUICK, tmp_path / "s"))
    victim.start()
    until(lambda: any(_size(path) >= 1_900_000 for path in left_over(root)))
    assert victim.pid is not None
    os.kill(victim.pid, number)
    victim.join(60)
    if function is workers.download_slowly:
        download(wanted, root / "file.bin", mirrors=(), policy=QUICK)
        assert (root / "file.bin").read_bytes() == LARGE
    else:
        assert Cache(root, mirrors=(), policy=QUICK).fetch(wanted).path.read_bytes() == LARGE
    asked = server.requests[-1].headers.get("range", "")
    assert int(asked.removeprefix("bytes=").rstrip("-")) > 1_000_000
    assert left_over(root) == []


@pytest.mark.parametrize("where", ["mirror", "official"])
def test_the_next_call_goes_on_in_the_same_process_and_at_another_source(
    where, server, tmp_path
) -> None:
    wanted = large(server, stuck_at(2_000_000))
    target = tmp_path / "file.bin"
    with pytest.raises(DownloadError):
        download(wanted, target, mirrors=(), policy=replace(IMPATIENT, retries=0))
    assert not target.exists()
    server.script(PATH, whole(LARGE, etag=None))
    server.script("/mirror" + PATH, whole(LARGE, etag=None))
    mirrors = [server.url + "/none", server.url + "/mirror"] if where == "mirror" else []
    assert download(wanted, target, mirrors=mirrors, policy=QUICK) is not None
    assert server.requests[-1].headers["range"] == "bytes=2000000-"
    assert target.read_bytes() == LARGE
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("answer", ["ranges", "whole", "416"])
def test_what_was_left_is_never_trusted(answer, server, tmp_path) -> None:
    wanted = large(server, stuck_at(2_000_000, body=bytes(len(LARGE))))
    target = tmp_path / "file.bin"
    with pytest.raises(DownloadError):
        download(wanted, target, mirrors=(), policy=replace(IMPATIENT, retries=0))
    refused = [status("416 Range Not Satisfiable")] if answer == "416" else []
    server.script(PATH, *refused, whole(LARGE, ranges=answer == "ranges"))
    assert download(wanted, target, mirrors=(), policy=QUICK) is not None
    assert target.read_bytes() == LARGE


def test_what_was_left_is_not_kept_for_ever(server, tmp_path) -> None:
    wanted = large(server, stuck_at(2_000_000))
    with pytest.raises(DownloadError):
        download(wanted, tmp_path / "a", mirrors=(), policy=replace(IMPATIENT, retries=0))
    (left,) = left_over(tmp_path)
    storage.sweep(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    storage.sweep(tmp_path)
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


@pytest.mark.parametrize(
    ("habitat", "process", "age", "stays"),
    [
        (HERE, DEAD, 0.0, False),
        (HERE, os.getppid(), 0.0, True),
        (HERE, os.getppid(), 2 * DAY, True),
        (ELSEWHERE, os.getpid(), 0.0, True),
        (ELSEWHERE, os.getpid(), 2 * DAY, False),
        (ELSEWHERE, os.getpid(), -2 * DAY, True),
    ],
    ids=[
        "of a dead process",
        "of a living process",
        "of a living process, long ago",
        "of another machine",
        "of another machine, long ago",
        "of another machine, in the future",
    ],
)
def test_sweeps_only_what_nobody_will_finish(
    habitat, process, age, stays, server, resource, cache, tmp_path
) -> None:
    server.script(PATH, whole())
    process = dead_process() if process == DEAD else process
    in_cache = rubbish(cache.root / "v1/incoming", habitat, process, age)
    beside = rubbish(tmp_path / "data", habitat, process, age)
    cache.fetch(resource())
    download(resource(), tmp_path / "data" / "file.bin", mirrors=(), policy=QUICK)
    assert in_cache.exists() == beside.exists() == stays


def test_sweeping_never_touches_files_of_the_user(server, resource, tmp_path) -> None:
    server.script(PATH, whole())
    mine = [
        ".partial",
        ".partial-notes",
        f".partial-{HERE}-1",
        "file.partial",
        ".partial-x-1-2.bin",
    ]
    for name in mine:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    download(resource(), tmp_path / "file.bin", mirrors=(), policy=QUICK)
    assert {path.name for path in tmp_path.iterdir()} >= {*mine, "file.bin"}


# Short of space.


class DiskUsage(NamedTuple):
    free: int
    total: int = 10**9


@pytest.fixture
def tiny_disk(public_folder) -> Iterator[Path]:
    """A file system of 200 KiB, smaller than the file."""
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(public_folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip("may not mount a tmpfs")
    yield public_folder
    subprocess.run(["umount", str(public_folder)], check=True)


def test_too_little_space_is_noticed_before_the_download(server, resource, tiny_disk) -> None:
    server.script(PATH, whole())
    cache = Cache(tiny_disk / "cache", mirrors=(), policy=QUICK)
    with pytest.raises(CacheError, match=r"Not enough space in .*: 300,000 bytes are needed and"):
        cache.fetch(resource(size=None))
    assert left_over(cache.root) == []


@pytest.mark.parametrize("known", [True, False], ids=["lying free space", "unknown size"])
def test_a_disk_that_fills_up_on_the_way(known, server, resource, tiny_disk, monkeypatch) -> None:
    if known:
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: DiskUsage(10**9))
    server.script(PATH, whole() if known else chunked)
    cache = Cache(tiny_disk / "cache", mirrors=(), policy=QUICK)
    with pytest.raises(CacheError, match=r"The disk is full: free some space.*ALLCNN_ZOO_CACHE"):
        cache.fetch(resource(size=len(BODY) if known else None))
    assert left_over(cache.root) == []
    assert len(server.requests) == 1, "a full disk is no reason to ask again"


def test_only_a_published_size_is_believed_to_need_more_than_there_is(
    server, resource, cache, monkeypatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: DiskUsage(10**6, 10**9))
    for path in (PATH, "/large.bin"):
        server.script("/liar" + path, raw("Content-Length: 1900000000", BODY))
    server.script(PATH, whole())
    mirrored = Cache(cache.root, mirrors=[server.url + "/liar"], policy=QUICK)
    assert mirrored.fetch(resource(sha256=None, size=None)).path.read_bytes() == BODY
    with pytest.raises(CacheError, match="Not enough space"):
        mirrored.fetch(resource(key="large.bin", sha256="0" * 64, size=1_900_000_000))


def test_a_conversion_that_fills_the_disk(server, resource, tiny_disk) -> None:
    small = BODY[:100_000]
    server.script(PATH, whole(small))
    cache = Cache(tiny_disk / "cache", mirrors=(), policy=QUICK)
    with pytest.raises(CacheError, match="The disk is full: free some space"):
        cache.derive(
            resource(sha256=None, size=None),
            "doubled.bin",
            lambda source, destination: destination.write_bytes(small * 2),
        )
    assert left_over(cache.root) == []
    assert cache.fetch(resource(sha256=None, size=None)).path.read_bytes() == small


# A place of the caller's choice.


def test_a_file_that_is_there_is_not_fetched_again(server, resource, tmp_path) -> None:
    server.script(PATH, whole())
    target = tmp_path / "a" / "b" / "file.bin"
    assert download(resource(), target, mirrors=(), policy=QUICK) is not None
    assert download(resource(), target, mirrors=(), policy=QUICK) is None
    assert len(server.requests) == 1
    target.write_bytes(b"something else")
    assert download(resource(), target, mirrors=(), policy=QUICK) is not None
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_download_leaves_the_old_file(server, resource, tmp_path) -> None:
    (tmp_path / "file.bin").write_bytes(b"precious")
    with pytest.raises(DownloadError):
        download(resource(), tmp_path / "file.bin", mirrors=(), policy=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == b"precious"


@pytest.mark.parametrize("place", ["folder", "file/below", "folder/"])
def test_something_in_the_way(place, server, resource, tmp_path) -> None:
    server.script(PATH, whole())
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="is in the way"):
        download(resource(), tmp_path / place, mirrors=(), policy=QUICK)


def test_processes_that_want_the_same_place_make_one_request(server, resource, tmp_path) -> None:
    server.script(PATH, slowly)
    threads = [
        threading.Thread(
            target=download,
            args=(resource(), tmp_path / "file.bin"),
            kwargs={"mirrors": (), "policy": QUICK},
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert len(server.requests) == 1
