"""The cache keeps its word: what it returns is what was promised, and a hit is only a look."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import stat
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from allcnn_zoo.errors import (
    CacheError,
    DownloadError,
    HubError,
    IntegrityError,
    NeonError,
    OfflineError,
    ResourceError,
)
from allcnn_zoo.hub import Cache, CachedFile, Resource, files
from allcnn_zoo.hub import cache as cache_module

from .conftest import DIGEST, KEY, PATH, QUICK, left_over
from .faulty_server import BODY, OTHER, Request, Wire, status, whole
from .workers import DAEMON, NOBODY, USERS, build, complaints, derive, fetch, logged_build, run_as

Make = Callable[..., Resource]

OTHER_DIGEST = hashlib.sha256(OTHER).hexdigest()

both_kinds = pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "first use"])


@pytest.fixture
def served(server, resource, pinned) -> Resource:
    """A resource that the server delivers, with or without a published digest."""
    server.script(PATH, whole())
    return resource() if pinned else resource(sha256=None, size=None)


def snapshot(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Everything that a write would change."""
    return {p: (p.stat().st_mtime_ns, p.stat().st_size, p.stat().st_ino) for p in root.rglob("*")}


@both_kinds
def test_returns_the_file_and_where_it_came_from(served, cache, server) -> None:
    file = cache.fetch(served)
    assert file.path.read_bytes() == BODY
    assert (file.key, file.sha256, file.size) == (KEY, DIGEST, len(BODY))
    assert (file.url, file.etag) == (server.url + PATH, '"v1"')
    assert DIGEST in file.path.name
    assert file.date.endswith("+00:00")


@both_kinds
def test_a_hit_asks_nobody_and_writes_nothing(served, cache, server) -> None:
    first = cache.fetch(served)
    made = cache.derive(served, "reversed.bin", build)
    before = snapshot(cache.root)
    offline = Cache(cache.root, offline=True)
    assert offline.fetch(served) == first
    assert offline.derive(served, "reversed.bin", build) == made
    assert snapshot(cache.root) == before
    assert len(server.requests) == 1


@both_kinds
def test_a_hit_works_on_a_read_only_cache_as_a_normal_user(served, public_folder) -> None:
    root = public_folder / "cache"
    made = derive(root, served, QUICK)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert run_as(NOBODY, derive, root, served, QUICK) == made
    assert run_as(NOBODY, fetch, root, served, QUICK).path.read_bytes() == BODY


def test_a_miss_on_a_read_only_cache_says_what_to_do(server, resource, public_folder) -> None:
    server.script(PATH, whole())
    fetch(public_folder / "cache", resource(), QUICK)
    with pytest.raises(CacheError, match=r"Permission denied: .*ALLCNN_ZOO_CACHE"):
        run_as(NOBODY, fetch, public_folder / "cache", resource(key="another.bin"), QUICK)
    (public_folder / "forbidden").mkdir(mode=0o755)
    with pytest.raises(CacheError, match=r"Permission denied: .*ALLCNN_ZOO_CACHE"):
        run_as(NOBODY, fetch, public_folder / "forbidden" / "cache", resource(), QUICK)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to act as two users")
@pytest.mark.parametrize("mode", [0o2775, 0o1777], ids=["group", "sticky"])
def test_two_users_share_a_cache(mode, server, resource, public_folder) -> None:
    server.script(PATH, whole())
    server.script("/another.bin", whole())
    another = resource(key="another.bin", url=server.url + "/another.bin")
    root = public_folder / "cache"
    root.mkdir()
    os.chown(root, -1, USERS)
    root.chmod(mode)
    assert run_as(NOBODY, fetch, root, resource(), QUICK).path.read_bytes() == BODY
    assert run_as(DAEMON, derive, root, resource(), QUICK) == BODY[::-1]
    assert run_as(DAEMON, fetch, root, another, QUICK).path.read_bytes() == BODY
    assert run_as(NOBODY, derive, root, another, QUICK) == BODY[::-1]
    assert len(server.requests) == 2
    files = list((root / "v1" / "files").iterdir())
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o022 for path in files)


def test_a_private_cache_stays_private(server, resource, cache) -> None:
    server.script(PATH, whole())
    cache.root.mkdir(mode=0o700)
    cache.fetch(resource())
    assert not any(
        stat.S_IMODE(path.stat().st_mode) & 0o077 for path in cache.root.rglob("v1/**/*")
    )


@both_kinds
@pytest.mark.parametrize("damage", [b"", BODY[:-1], BODY + b"!", OTHER])
def test_a_damaged_file_is_quarantined_and_fetched_again_once(
    damage, served, cache, server
) -> None:
    file = cache.fetch(served)
    file.path.write_bytes(damage)
    with pytest.warns(UserWarning, match="was damaged"):
        again = cache.fetch(served)
    assert again.path.read_bytes() == BODY
    assert [p.read_bytes() for p in (cache.root / "v1/quarantine").iterdir()] == [damage]
    cache.fetch(served)
    assert len(server.requests) == 2


def test_a_damaged_file_that_cannot_be_fetched_again_is_never_returned(
    server, resource, cache
) -> None:
    server.script(PATH, whole(), status("404 Not Found"))
    cache.fetch(resource()).path.write_bytes(OTHER)
    with pytest.warns(UserWarning, match="was damaged"), pytest.raises(DownloadError):
        cache.fetch(resource())
    with pytest.warns(UserWarning, match="was damaged"), pytest.raises(OfflineError):
        Cache(cache.root, offline=True).fetch(resource())


def test_a_damaged_derived_file_is_made_again(server, resource, cache) -> None:
    server.script(PATH, whole())
    made = cache.derive(resource(), "reversed.bin", build)
    made.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="was damaged"):
        assert cache.derive(resource(), "reversed.bin", build).read_bytes() == BODY[::-1]
    assert len(server.requests) == 1


damaged_records = pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"key": 1}', "\xff", '{"sha256": "../x"}'),
        pytest.param("[" * 100_000, id="deep"),
        '{"key": "a", "sha256": null, "size": 1, "date": "2026-01-01"}',
        f'{{"key": "a", "sha256": "{DIGEST}", "size": null, "date": "2026-01-01"}}',
        f'{{"key": "a", "sha256": "{DIGEST}", "size": 1, "date": "yesterday"}}',
        f'{{"key": 1, "sha256": "{DIGEST}", "size": 1, "date": "2026-01-01"}}',
        f'{{"key": "../a", "sha256": "{DIGEST}", "size": 1, "date": "2026-01-01"}}',
        f'{{"key": "a", "sha256": "{DIGEST}", "size": 1, "date": "2026-01-01", "path": "/etc"}}',
    ],
)


@damaged_records
def test_a_damaged_record_of_a_derived_file_costs_a_conversion(
    text, server, resource, cache
) -> None:
    server.script(PATH, whole())
    made = cache.derive(resource(), "reversed.bin", build)
    (record,) = (cache.root / "v1/derived").iterdir()
    record.write_text(text, "latin-1")
    assert cache.derive(resource(), "reversed.bin", build) == made


@damaged_records
def test_a_damaged_record_never_means_trusting_anew(text, server, resource, cache) -> None:
    server.script(PATH, whole())
    cache.fetch(resource(sha256=None))
    (record,) = (cache.root / "v1/records").iterdir()
    record.write_text(text, "latin-1")
    with pytest.raises(CacheError, match=r"damaged|Cannot read"):
        cache.fetch(resource(sha256=None))
    assert cache.fetch(resource()).path.read_bytes() == BODY  # a published digest needs no record


# Trust on first use.


def test_a_change_after_the_first_use_is_an_error_that_shows_both(server, resource, cache) -> None:
    server.script(PATH, whole(etag='"old"'))
    first = cache.fetch(resource(sha256=None, size=None))
    cache.remove(KEY)
    server.script(PATH, whole(OTHER, etag='"new"'))
    with pytest.raises(IntegrityError) as caught:
        cache.fetch(resource(sha256=None, size=None))
    for fact in (DIGEST, OTHER_DIGEST, '"old"', '"new"', first.date, server.url, "--trust-new"):
        assert fact in str(caught.value)
    assert cache.entries() == []


def test_trust_new_accepts_and_records_the_change(server, resource, cache) -> None:
    unpinned = resource(sha256=None, size=None)
    server.script(PATH, whole())
    cache.fetch(unpinned)
    server.script(PATH, whole(OTHER))
    assert cache.fetch(unpinned, trust_new=True).sha256 == DIGEST  # nothing had to be fetched
    cache.remove(KEY)
    assert cache.fetch(unpinned, trust_new=True).sha256 == OTHER_DIGEST
    cache.remove(KEY)
    assert cache.fetch(unpinned).sha256 == OTHER_DIGEST


def test_trust_new_never_overrules_a_published_digest(server, resource, cache) -> None:
    server.script(PATH, whole(OTHER))
    with pytest.raises(IntegrityError):
        cache.fetch(resource(), trust_new=True)


def test_a_published_digest_resolves_a_change_for_good(server, resource, cache) -> None:
    unpinned = resource(sha256=None, size=None)
    server.script(PATH, whole(OTHER))
    cache.fetch(unpinned)
    server.script(PATH, whole())
    assert cache.fetch(resource()).sha256 == DIGEST
    assert cache.fetch(unpinned).sha256 == DIGEST


def test_an_intact_old_version_is_kept_beside_the_new_one(server, resource, cache) -> None:
    server.script(PATH, whole(OTHER), whole())
    old = cache.fetch(resource(sha256=OTHER_DIGEST))
    cache.fetch(resource())
    assert cache.fetch(resource(sha256=OTHER_DIGEST)).path == old.path
    assert len(server.requests) == 2


def test_the_first_of_two_different_first_uses_stands(server, resource, cache, monkeypatch) -> None:
    """Two processes meet different bytes, and the lock between them is a lie."""
    unpinned = resource(sha256=None, size=None)
    server.script(PATH, whole())
    cache.fetch(unpinned)
    monkeypatch.setattr(Cache, "_expected", lambda *_: None)  # what the second one saw before
    server.script(PATH, whole(OTHER))
    with pytest.raises(IntegrityError, match=f"came as sha256 {OTHER_DIGEST}(.|\n)*{DIGEST}"):
        cache.fetch(unpinned)
    monkeypatch.undo()
    assert Cache(cache.root, offline=True).fetch(unpinned).sha256 == DIGEST


def test_a_refused_file_is_not_put_on_record(server, resource, cache) -> None:
    seen: list[Path] = []

    def convert(source: CachedFile, destination: Path) -> None:
        seen.append(source.path)
        assert not destination.exists()
        destination.write_bytes(b"half of it")
        if source.path.read_bytes() != BODY:
            raise NeonError(f"{source.path} is nonsense")
        build(source, destination)

    unpinned = resource(sha256=None, size=None)
    server.script(PATH, whole(OTHER))
    with pytest.raises(IntegrityError, match=r"not accepted: file\.bin is nonsense") as caught:
        cache.derive(unpinned, "reversed.bin", convert)
    assert ".partial-" not in "".join(traceback.format_exception(caught.value))
    assert cache.entries() == []
    server.script("/mirror" + PATH, whole(OTHER))
    server.script(PATH, whole())
    mirrored = Cache(cache.root, mirrors=[server.url + "/mirror"], policy=QUICK)
    assert mirrored.derive(unpinned, "reversed.bin", convert).read_bytes() == BODY[::-1]
    assert len(seen) == 3, "a new file is read once, for validation and conversion"


# Derived files.


def test_derives_once(server, resource, cache, tmp_path) -> None:
    server.script(PATH, whole())
    logged = functools.partial(logged_build, tmp_path / "log")
    for _ in range(3):
        assert cache.derive(resource(), "reversed.bin", logged).read_bytes() == BODY[::-1]
    cache.derive(resource(), "reversed-2.bin", logged)
    assert (tmp_path / "log").read_text() == "built\n" * 2


def test_the_builder_knows_where_its_source_came_from(server, resource, cache) -> None:
    server.script(PATH, whole())
    sources: list[CachedFile] = []

    def note(source: CachedFile, destination: Path) -> None:
        assert destination.suffix == ".txt"
        sources.append(source)
        destination.write_text(source.sha256)

    cache.derive(resource(), "note.txt", note)
    (source,) = sources
    assert replace(source, path=cache.fetch(resource()).path) == cache.fetch(resource())


def test_a_failing_builder_leaves_nothing(server, resource, cache) -> None:
    server.script(PATH, whole())

    def fail(source: CachedFile, destination: Path) -> None:
        destination.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.derive(resource(), "half.txt", fail)
    assert left_over(cache.root) == []
    assert cache.entries() == []
    with pytest.raises(CacheError):
        cache.derive(resource(), "nothing.txt", lambda source, destination: None)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x"])
def test_names_of_derived_files_are_plain(name, cache, resource) -> None:
    with pytest.raises(ResourceError, match="plain name"):
        cache.derive(resource(), name, build)


# Listing, verifying, removing.


@pytest.fixture
def filled(server, resource, cache) -> Cache:
    """A cache with two downloads and one derived file."""
    server.script(PATH, whole())
    server.script("/other.bin", whole(OTHER))
    cache.derive(resource(), "reversed.bin", build)
    cache.fetch(Resource("other.bin", server.url + "/other.bin"))
    return cache


def test_lists_files_with_their_provenance(filled, server) -> None:
    facts = [(e.key, e.size, e.url, e.source) for e in filled.entries()]
    assert facts == [
        (KEY, len(BODY), server.url + PATH, None),
        ("other.bin", len(OTHER), server.url + "/other.bin", None),
        ("reversed.bin", len(BODY), None, DIGEST),
    ]
    assert all(entry.path.is_file() for entry in filled.entries())


def test_verifies_every_file(filled) -> None:
    assert [(e.key, intact) for e, intact in filled.verify()] == [
        (KEY, True),
        ("other.bin", True),
        ("reversed.bin", True),
    ]
    filled.entries()[1].path.write_bytes(b"damaged")
    assert [intact for _, intact in filled.verify()] == [True, False, True]


def test_removes_a_download_with_all_that_was_made_from_it(filled) -> None:
    assert filled.remove(KEY) == 2 * len(BODY)
    assert [entry.key for entry in filled.entries()] == ["other.bin"]


def test_removes_a_derived_file_alone(filled) -> None:
    assert filled.remove("reversed.bin") == len(BODY)
    assert [entry.key for entry in filled.entries()] == [KEY, "other.bin"]


def test_forgets_on_request(filled, server) -> None:
    filled.remove("other.bin", forget=True)
    server.script("/other.bin", whole(BODY))
    assert filled.fetch(Resource("other.bin", server.url + "/other.bin")).sha256 == DIGEST


def test_removing_the_unknown_says_what_is_there(filled) -> None:
    with pytest.raises(CacheError, match=f"Nothing called 'x'.*{KEY}, other.bin, reversed.bin"):
        filled.remove("x")
    with pytest.raises(CacheError, match="it holds nothing"):
        Cache(filled.root / "empty").remove("x")


def test_prunes_what_no_record_leads_to(filled, resource) -> None:
    files = filled.root / "v1/files"
    (files / f"{'0' * 64}-stray.bin").write_bytes(b"12345")
    (files / "junk").write_bytes(b"123")
    filled.entries()[0].path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        filled.fetch(resource())
    assert filled.prune() == 5 + 3 + len(b"damaged")
    assert [entry.key for entry in filled.entries()] == [KEY, "other.bin", "reversed.bin"]
    assert all(intact for _, intact in filled.verify())


def test_pruning_spares_what_arrives_meanwhile(filled, server, monkeypatch) -> None:
    server.script("/new.bin", whole())
    look = Cache._records

    def arrives_first(cache: Cache) -> list[CachedFile]:
        monkeypatch.undo()
        fetch(filled.root, Resource("new.bin", server.url + "/new.bin"), QUICK)
        return look(cache)

    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    monkeypatch.setattr(Cache, "_records", arrives_first)
    assert filled.prune() == 0
    assert "new.bin" in [entry.key for entry in filled.entries()]


def test_an_empty_cache_can_be_looked_at(tmp_path) -> None:
    cache = Cache(tmp_path / "missing")
    assert cache.entries() == []
    assert list(cache.verify()) == []
    assert cache.prune() == 0
    assert not cache.root.exists()


def test_a_cache_can_be_carried_to_another_machine(filled, tmp_path, resource) -> None:
    shutil.copytree(filled.root, tmp_path / "usb stick")
    assert Cache(tmp_path / "usb stick", offline=True).fetch(resource()).path.read_bytes() == BODY


def test_backups_are_told_to_skip_it(filled) -> None:
    tag = (filled.root / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")


# Things in the way, and other layouts.


def test_a_file_that_may_not_be_read_is_named(server, resource, public_folder) -> None:
    server.script(PATH, whole())
    fetch(public_folder / "cache", resource(), QUICK).path.chmod(0)
    with pytest.raises(CacheError, match=r"Cannot read .*file\.bin\. Permission denied"):
        run_as(NOBODY, fetch, public_folder / "cache", resource(), QUICK)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to act as another user")
@pytest.mark.parametrize("place", ["", "v1/files"])
def test_a_folder_that_may_not_be_searched_is_named(place, server, resource, public_folder) -> None:
    server.script(PATH, whole())
    root = public_folder / "cache"
    fetch(root, resource(), QUICK)
    (root / place).chmod(0o700)
    said = run_as(NOBODY, complaints, root, [resource(), resource(sha256=None)], QUICK)
    assert len(said) == 5
    for words in said:
        assert words.startswith(f"Cannot read {root / 'v1'}")
        assert "Permission denied: ask its owner, or choose another folder" in words


def test_a_link_to_nothing_is_no_entry_and_can_be_pruned(filled) -> None:
    before = filled.entries()
    link = filled.root / "v1/files" / f"{'0' * 64}-gone.bin"
    link.symlink_to("/nonexistent")
    assert filled.entries() == before
    assert [entry for entry, _ in filled.verify()] == before
    filled.prune()
    assert not link.is_symlink()


def test_a_cache_that_vanishes_during_a_download_is_named(server, resource, cache) -> None:
    def vanish(request: Request, wire: Wire) -> None:
        shutil.rmtree(cache.root)
        whole()(request, wire)

    server.script(PATH, vanish)
    with pytest.raises(CacheError, match=r"Cannot write .*No such file or directory"):
        cache.fetch(resource())


@pytest.mark.parametrize("place", ["", "v1", "v1/files", "v1/records", "v1/incoming", "v1/locks"])
def test_a_file_where_a_folder_should_be(place, server, resource, cache) -> None:
    server.script(PATH, whole())
    (cache.root / place).parent.mkdir(parents=True, exist_ok=True)
    (cache.root / place).write_text("in the way")
    with pytest.raises(CacheError, match="A file is in the way of a folder: remove it"):
        cache.fetch(resource())


@pytest.mark.parametrize("place", ["files", "records"])
def test_a_folder_where_a_file_should_be(place, server, resource, cache) -> None:
    server.script(PATH, whole())
    name = {"files": f"{DIGEST}-file.bin", "records": "folder%2Ffile.bin.json"}[place]
    (cache.root / "v1" / place / name / "inside").mkdir(parents=True)
    with pytest.raises(CacheError, match="A folder is in the way of a file: remove it"):
        cache.fetch(resource())


def test_a_folder_where_a_lock_should_be_is_no_obstacle(server, resource, cache) -> None:
    server.script(PATH, whole())
    (cache.root / "v1/locks/folder%2Ffile.bin.lock").mkdir(parents=True)
    assert cache.fetch(resource()).path.read_bytes() == BODY


# What others put into a shared cache leads nowhere.


@pytest.mark.parametrize("place", ["v1", *(f"v1/{n}" for n in ("quarantine", "files", "failures"))])
def test_nothing_is_deleted_behind_a_planted_link(place, filled, tmp_path) -> None:
    victims = tmp_path / "victims"
    (filled.root / "v1/quarantine").mkdir()
    (filled.root / "v1/quarantine/precious").touch()
    (filled.root / "v1/failures").mkdir()
    (filled.root / place).rename(victims)
    (filled.root / place).symlink_to(victims)
    (victims / f".partial-{'0' * 12}-1-{'0' * 16}").touch()
    os.utime(victims / f".partial-{'0' * 12}-1-{'0' * 16}", (0, 0))
    before = snapshot(victims)
    filled.prune()
    with contextlib.suppress(CacheError):
        filled.remove(KEY, forget=True)
    assert snapshot(victims) == before


@pytest.mark.parametrize("place", ["v1", "v1/incoming", "v1/files", "v1/records", "v1/locks"])
def test_nothing_is_written_behind_a_planted_link(place, server, resource, cache, tmp_path) -> None:
    server.script(PATH, whole())
    victims = tmp_path / "victims"
    victims.mkdir()
    (cache.root / place).parent.mkdir(parents=True, exist_ok=True)
    (cache.root / place).symlink_to(victims)
    with pytest.raises(CacheError, match="is a link, and a cache has none: remove it"):
        cache.fetch(resource())
    assert list(victims.rglob("*")) == []


def test_planted_links_in_the_place_of_files_are_replaced_or_ignored(
    server, resource, cache, tmp_path
) -> None:
    server.script(PATH, status("404 Not Found"), whole())
    (tmp_path / "victim").write_text("precious")
    place = hashlib.sha256((server.url + PATH).encode()).hexdigest()[:32]
    for target, link in (
        ("new", "CACHEDIR.TAG"),
        ("victim", f"v1/failures/{place}"),
        ("victim", f"v1/records/{KEY.replace('/', '%2F')}.json"),
        ("new", f"v1/files/{DIGEST}-file.bin"),
    ):
        (cache.root / link).parent.mkdir(parents=True, exist_ok=True)
        (cache.root / link).symlink_to(tmp_path / target)
    with pytest.raises(DownloadError) as caught:
        cache.fetch(resource(), retry_failed=False)
    assert "precious" not in str(caught.value)
    assert cache.fetch(resource()).path.read_bytes() == BODY
    assert not cache.fetch(resource()).path.is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("fact", ["source", "sha256", "key"])
@pytest.mark.parametrize("value", ["../../..", "/etc/passwd", "a" * 63 + "/", ".", ["x"], 1])
def test_a_planted_record_names_no_file_outside(fact, value, filled, tmp_path) -> None:
    (record,) = (filled.root / "v1/derived").iterdir()
    record.write_text(json.dumps(json.loads(record.read_text()) | {fact: value}))
    before = {path for path in tmp_path.rglob("*") if filled.root not in path.parents}
    for key in {entry.key for entry in filled.entries()}:
        with contextlib.suppress(CacheError):
            filled.remove(key, forget=True)
    assert {path for path in tmp_path.rglob("*") if filled.root not in path.parents} == before


@pytest.mark.filterwarnings("ignore:.*was damaged")
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize("place", ["records", "derived", "files", "failures"])
def test_what_is_no_file_is_not_waited_for(kind, place, filled, resource, server) -> None:
    (filled.root / "v1/failures").mkdir()
    mirror = f"{server.url}/mirror{PATH}"
    name = hashlib.sha256(mirror.encode()).hexdigest()[:32]
    paths = [*(filled.root / "v1" / place).iterdir()] or [filled.root / "v1" / place / name]
    for path in paths:
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
    cache = Cache(filled.root, mirrors=[f"{server.url}/mirror"], policy=QUICK)
    with contextlib.suppress(HubError):
        cache.derive(resource(), "reversed.bin", build, retry_failed=False)
    with contextlib.suppress(HubError):
        cache.fetch(resource(sha256=None), retry_failed=False)
    assert len(list(cache.verify())) <= 3


def test_names_in_a_cache_cannot_paint_the_terminal(filled) -> None:
    (filled.root / f"v1/files/{'0' * 64}-\x1b[2J").touch()
    assert not any("\x1b" in f"{entry.key}{entry.sha256}" for entry in filled.entries())


# A source that did not answer is left alone for a while.


def test_a_source_that_failed_is_not_asked_again_for_a_while(server, resource, cache) -> None:
    server.script(PATH, status("503 Busy"))
    with pytest.raises(DownloadError):
        cache.fetch(resource())
    asked = len(server.requests)
    again = Cache(cache.root, mirrors=(), policy=QUICK)
    with pytest.raises(DownloadError, match=r"not tried: \d s ago, 503 Busy \(4 attempts\)"):
        again.fetch(resource(), retry_failed=False)
    with pytest.raises(DownloadError, match="not tried"):
        again.derive(resource(), "reversed.bin", build, retry_failed=False)
    assert len(server.requests) == asked
    server.script("/mirror" + PATH, whole())
    mirrored = Cache(cache.root / "other", mirrors=[server.url + "/mirror"], policy=QUICK)
    assert mirrored.fetch(resource(), retry_failed=False).url == f"{server.url}/mirror{PATH}"


@pytest.mark.parametrize("way", ["asked to", "an answer", "time", "clock set back", "pruned"])
def test_a_source_that_failed_is_asked_again(way, server, resource, cache) -> None:
    server.script(PATH, status("503 Busy"))
    with pytest.raises(DownloadError):
        cache.fetch(resource())
    server.script(PATH, whole())
    (note,) = (cache.root / "v1/failures").iterdir()
    if way == "time":
        os.utime(note, (0, 0))
    elif way == "clock set back":
        os.utime(note, (2**32, 2**32))
    elif way == "pruned":
        assert cache.prune() == 0
    elif way == "an answer":
        cache.fetch(resource())
        cache.remove(KEY)
    retry = way == "asked to"
    assert cache.fetch(resource(), retry_failed=retry).path.read_bytes() == BODY
    assert not note.exists()


@pytest.mark.parametrize(
    "behaviour", [status("404 Not Found"), whole(OTHER)], ids=["404", "other bytes"]
)
def test_a_source_that_answers_at_once_is_always_asked(behaviour, server, resource, cache) -> None:
    server.script(PATH, behaviour)
    for _ in range(2):
        with pytest.raises(HubError):
            cache.fetch(resource(), retry_failed=False)
    assert len(server.requests) == 2


def test_the_record_is_there_before_the_file(server, resource, cache, monkeypatch) -> None:
    """Whatever happens in between, the digest first seen is expected from then on."""
    server.script(PATH, whole(), whole(OTHER), whole())
    unpinned = resource(sha256=None, size=None)

    def stop(path: Path, destination: Path) -> None:
        if destination.parent.name == "files":
            raise KeyboardInterrupt
        files.publish(path, destination)

    monkeypatch.setattr(cache_module, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(unpinned)
    monkeypatch.undo()
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    with pytest.raises(IntegrityError, match=DIGEST):
        cache.fetch(unpinned)
    assert cache.fetch(unpinned).sha256 == DIGEST
