"""The cache keeps its word: what it returns is what was promised, and a hit is only a look."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import traceback
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

from .conftest import DIGEST, KEY, NO_FILE, PATH, QUICK, left_over, pinned_or_not
from .faulty_server import BODY, OTHER, status, whole
from .workers import DAEMON, NOBODY, USERS, build, derive, fetch, look_into, prune, run_as

OTHER_DIGEST = hashlib.sha256(OTHER).hexdigest()

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to act as other users")


@pytest.fixture
def pinned() -> bool:
    """Whether digest and size are published, unless a test is run for both kinds."""
    return True


@pytest.fixture
def served(server, resource, pinned) -> Resource:
    """A resource that the server delivers."""
    server.script(PATH, whole())
    return resource(pinned)


@pytest.fixture
def unpinned(server, resource) -> Resource:
    """The same without a published digest."""
    server.script(PATH, whole())
    return resource(pinned=False)


def snapshot(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Everything that a write would change."""
    return {p: (p.stat().st_mtime_ns, p.stat().st_size, p.stat().st_ino) for p in root.rglob("*")}


@pinned_or_not
def test_returns_the_file_and_where_it_came_from(served, cache, server) -> None:
    file = cache.fetch(served)
    assert file.path.read_bytes() == BODY
    assert (file.key, file.sha256, file.size) == (KEY, DIGEST, len(BODY))
    assert (file.url, file.etag) == (server.url + PATH, '"v1"')
    assert DIGEST in file.path.name
    assert file.date.endswith("+00:00")


@pinned_or_not
def test_a_hit_asks_nobody_and_writes_nothing(served, cache, server) -> None:
    first = cache.fetch(served)
    made = cache.derive(served, "reversed.bin", build)
    before = snapshot(cache.root)
    offline = Cache(cache.root, offline=True)
    assert offline.fetch(served) == first
    assert offline.derive(served, "reversed.bin", build) == made
    assert snapshot(cache.root) == before
    assert len(server.requests) == 1


@pinned_or_not
def test_a_hit_works_on_a_read_only_cache_as_a_normal_user(served, public_folder) -> None:
    root = public_folder / "cache"
    made = derive(root, served, QUICK)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert run_as(NOBODY, derive, root, served, QUICK) == made
    assert run_as(NOBODY, fetch, root, served, QUICK).path.read_bytes() == BODY


@needs_root
@pytest.mark.parametrize("place", ["cache", "forbidden/cache"])
def test_a_miss_where_one_may_not_write_says_what_to_do(place, served, public_folder) -> None:
    fetch(public_folder / "cache", served, QUICK)
    (public_folder / "forbidden").mkdir(mode=0o755)
    with pytest.raises(CacheError, match=r"Permission denied: .*ALLCNN_ZOO_CACHE"):
        run_as(NOBODY, fetch, public_folder / place, replace(served, key="another.bin"), QUICK)


@needs_root
@pytest.mark.parametrize("mode", [0o2775, 0o1777], ids=["group", "sticky"])
def test_two_users_share_a_cache(mode, served, server, public_folder) -> None:
    another = replace(served, key="another.bin")
    root = public_folder / "cache"
    root.mkdir()
    os.chown(root, -1, USERS)
    root.chmod(mode)
    assert run_as(NOBODY, fetch, root, served, QUICK).path.read_bytes() == BODY
    assert run_as(DAEMON, derive, root, served, QUICK) == BODY[::-1]
    assert run_as(DAEMON, fetch, root, another, QUICK).path.read_bytes() == BODY
    assert run_as(NOBODY, derive, root, another, QUICK) == BODY[::-1]
    assert len(server.requests) == 2
    busy = Resource("busy.bin", server.script("/busy.bin", status("503 Busy")))
    with pytest.raises(DownloadError):
        run_as(DAEMON, fetch, root, busy, QUICK)
    for path in root.rglob("v1/**/*"):
        bits = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert bits == mode, path
        elif path.suffix != ".lock":
            assert (bits & 0o044, bits & 0o022) == (0o044, 0), path


def test_a_private_cache_stays_private(served, cache) -> None:
    cache.root.mkdir(mode=0o700)
    cache.fetch(served)
    assert not any(
        stat.S_IMODE(path.stat().st_mode) & 0o077 for path in cache.root.rglob("v1/**/*")
    )


@pinned_or_not
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


@pytest.mark.parametrize("cause", ["no hard links", "a folder in its place"])
def test_a_damaged_file_is_called_kept_only_if_it_is(cause, served, cache, monkeypatch) -> None:
    file = cache.fetch(served)
    file.path.write_bytes(OTHER)
    if cause == "no hard links":  # as on FAT
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1)))
    else:
        file.path.unlink()
        file.path.mkdir()
    with contextlib.suppress(CacheError), pytest.warns(UserWarning, match="again.$"):
        cache.fetch(served)
    assert not any((cache.root / "v1/quarantine").iterdir())


def test_a_damaged_file_that_cannot_be_fetched_again_is_never_returned(
    server, resource, cache
) -> None:
    server.script(PATH, whole(), status("404 Not Found"))
    cache.fetch(resource()).path.write_bytes(OTHER)
    with pytest.warns(UserWarning, match="was damaged"), pytest.raises(DownloadError):
        cache.fetch(resource())
    with pytest.warns(UserWarning, match="was damaged"), pytest.raises(OfflineError):
        Cache(cache.root, offline=True).fetch(resource())


def test_a_damaged_derived_file_is_made_again(served, cache, server) -> None:
    made = cache.derive(served, "reversed.bin", build)
    made.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="was damaged"):
        assert cache.derive(served, "reversed.bin", build).read_bytes() == BODY[::-1]
    assert len(server.requests) == 1


DAMAGED = [
    *("", "{", "[]", "{}", '{"key": 1}', "\xff", '{"sha256": "../x"}', "[" * 100_000),
    *({"sha256": None}, {"size": None}, {"date": "yesterday"}, {"key": 1}, {"key": "../a"}),
    {"path": "/etc"},
]


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_record_costs_a_conversion_but_never_means_trusting_anew(
    damage, served, unpinned, cache
) -> None:
    cache.fetch(unpinned)
    made = cache.derive(served, "reversed.bin", build)
    for record in [*(cache.root / "v1/derived").iterdir(), *(cache.root / "v1/records").iterdir()]:
        facts = json.loads(record.read_text())
        text = damage if isinstance(damage, str) else json.dumps(facts | damage)
        record.write_text(text, "latin-1")
    assert cache.derive(served, "reversed.bin", build) == made
    with pytest.raises(CacheError, match=r"damaged|Cannot read"):
        cache.fetch(unpinned)
    assert cache.fetch(served).path.read_bytes() == BODY  # a published digest needs no record


# Trust on first use.


def test_a_change_after_the_first_use_is_an_error_that_shows_both(server, unpinned, cache) -> None:
    server.script(PATH, whole(etag='"old"'), whole(OTHER, etag='"new"'))
    first = cache.fetch(unpinned)
    cache.remove(KEY)
    with pytest.raises(IntegrityError) as caught:
        cache.fetch(unpinned)
    for fact in (DIGEST, OTHER_DIGEST, '"old"', '"new"', first.date, server.url, "--trust-new"):
        assert fact in str(caught.value)
    assert cache.entries() == []


def test_trust_new_accepts_and_records_the_change(server, unpinned, cache) -> None:
    cache.fetch(unpinned)
    server.script(PATH, whole(OTHER))
    assert cache.fetch(unpinned, trust_new=True).sha256 == DIGEST  # nothing had to be fetched
    for trust_new in (True, False):
        cache.remove(KEY)
        assert cache.fetch(unpinned, trust_new=trust_new).sha256 == OTHER_DIGEST


def test_a_published_digest_is_never_overruled_and_resolves_a_change_for_good(
    server, served, unpinned, cache
) -> None:
    server.script(PATH, whole(OTHER), whole(OTHER), whole())
    cache.fetch(unpinned)
    with pytest.raises(IntegrityError):
        cache.fetch(served, trust_new=True)
    assert cache.fetch(served).sha256 == DIGEST
    assert cache.fetch(unpinned).sha256 == DIGEST


def test_the_first_of_two_different_first_uses_stands(server, unpinned, cache, monkeypatch) -> None:
    """Two processes meet different bytes, and the lock between them is a lie."""
    cache.fetch(unpinned)
    monkeypatch.setattr(Cache, "_expected", lambda *_: None)  # what the second one saw before
    server.script(PATH, whole(OTHER))
    with pytest.raises(IntegrityError, match=f"came as sha256 {OTHER_DIGEST}(.|\n)*{DIGEST}"):
        cache.fetch(unpinned)
    monkeypatch.undo()
    assert Cache(cache.root, offline=True).fetch(unpinned).sha256 == DIGEST


def test_the_record_is_there_before_the_file(server, unpinned, cache, monkeypatch) -> None:
    """Whatever happens in between, the digest first seen is expected from then on."""
    server.script(PATH, whole(), whole(OTHER), whole())

    def stop(path: Path, destination: Path) -> None:
        if destination.parent.name == "files":
            raise KeyboardInterrupt
        files.publish(path, destination)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            cache.fetch(unpinned)
    with pytest.raises(IntegrityError, match=DIGEST):
        cache.fetch(unpinned)
    assert cache.fetch(unpinned).sha256 == DIGEST


def test_a_refused_file_is_not_put_on_record(server, unpinned, cache) -> None:
    seen: list[Path] = []

    def convert(source: CachedFile, destination: Path) -> None:
        seen.append(source.path)
        assert not destination.exists()
        destination.write_bytes(b"half of it")
        if source.path.read_bytes() != BODY:
            raise NeonError(f"{source.path} is nonsense")
        build(source, destination)

    server.script(PATH, whole(OTHER), whole())
    with pytest.raises(IntegrityError, match=r"not accepted: file\.bin is nonsense") as caught:
        cache.derive(unpinned, "reversed.bin", convert)
    assert ".partial-" not in "".join(traceback.format_exception(caught.value))
    assert cache.entries() == []
    server.script("/mirror" + PATH, whole(OTHER))
    mirrored = Cache(cache.root, mirrors=[server.url + "/mirror"], policy=QUICK)
    assert mirrored.derive(unpinned, "reversed.bin", convert).read_bytes() == BODY[::-1]
    assert len(seen) == 3, "a new file is read once, for validation and conversion"


# Derived files.


def test_derives_once_and_tells_the_builder_where_its_source_came_from(
    served, cache, tmp_path
) -> None:
    sources: list[CachedFile] = []

    def note(source: CachedFile, destination: Path) -> None:
        assert destination.suffix == ".txt"
        sources.append(source)
        destination.write_text(source.sha256)

    for name in ("note.txt", "note.txt", "note-2.txt"):
        assert cache.derive(served, name, note).read_text() == DIGEST
    first, second = sources
    assert replace(first, path=second.path) == second == cache.fetch(served)


def test_a_failing_builder_leaves_nothing(served, cache) -> None:
    def fail(source: CachedFile, destination: Path) -> None:
        destination.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.derive(served, "half.txt", fail)
    assert left_over(cache.root) == []
    assert cache.entries() == []
    with pytest.raises(CacheError):
        cache.derive(served, "nothing.txt", lambda source, destination: None)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x"])
def test_names_of_derived_files_are_plain(name, cache, resource) -> None:
    with pytest.raises(ResourceError, match="plain name"):
        cache.derive(resource(), name, build)


# Listing, verifying, removing.


@pytest.fixture
def filled(server, served, cache) -> Cache:
    """A cache with two downloads and one derived file."""
    server.script("/other.bin", whole(OTHER))
    cache.derive(served, "reversed.bin", build)
    cache.fetch(Resource("other.bin", server.url + "/other.bin"))
    return cache


def keys(cache: Cache) -> list[str]:
    return [entry.key for entry in cache.entries()]


def test_lists_and_verifies_files_with_their_provenance(filled, server) -> None:
    facts = [(e.key, e.size, e.url, e.source, intact) for e, intact in filled.verify()]
    assert facts == [
        (KEY, len(BODY), server.url + PATH, None, True),
        ("other.bin", len(OTHER), server.url + "/other.bin", None, True),
        ("reversed.bin", len(BODY), None, DIGEST, True),
    ]
    filled.entries()[1].path.write_bytes(b"damaged")
    assert [intact for _, intact in filled.verify()] == [True, False, True]


@pytest.mark.parametrize(
    ("key", "freed", "left"),
    [(KEY, 2 * len(BODY), ["other.bin"]), ("reversed.bin", len(BODY), [KEY, "other.bin"])],
)
def test_removes_a_file_with_all_that_was_made_from_it(key, freed, left, filled) -> None:
    assert filled.remove(key) == freed
    assert keys(filled) == left


def test_forgets_on_request(filled, server) -> None:
    filled.remove("other.bin", forget=True)
    server.script("/other.bin", whole(BODY))
    assert filled.fetch(Resource("other.bin", server.url + "/other.bin")).sha256 == DIGEST


def test_removing_the_unknown_says_what_is_there(filled) -> None:
    with pytest.raises(CacheError, match=f"Nothing called 'x'.*{KEY}, other.bin, reversed.bin"):
        filled.remove("x")
    with pytest.raises(CacheError, match="it holds nothing"):
        Cache(filled.root / "empty").remove("x")


def test_prunes_what_no_record_leads_to(filled, served) -> None:
    files = filled.root / "v1/files"
    (files / f"{'0' * 64}-stray.bin").write_bytes(b"12345")
    (files / "junk-\x1b[2J").write_bytes(b"123")
    (files / f"{'1' * 64}-gone.bin").symlink_to("/nonexistent")
    filled.entries()[0].path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        filled.fetch(served)
    assert keys(filled) == [KEY, "other.bin", "reversed.bin"]
    assert filled.prune() == 5 + 3 + len(b"damaged") + len("/nonexistent")
    assert all(intact for _, intact in filled.verify())
    assert len(list(files.iterdir())) == 3


def test_pruning_spares_what_arrives_meanwhile(filled, server, monkeypatch) -> None:
    server.script("/new.bin", whole())
    look = Cache._records

    def arrives_first(cache: Cache) -> list[CachedFile]:
        monkeypatch.setattr(Cache, "_records", look)
        fetch(filled.root, Resource("new.bin", server.url + "/new.bin"), QUICK)
        return look(cache)

    monkeypatch.setattr(Cache, "_records", arrives_first)
    assert filled.prune() == 0
    assert "new.bin" in keys(filled)


def test_an_empty_cache_can_be_looked_at(tmp_path) -> None:
    cache = Cache(tmp_path / "missing")
    assert cache.entries() == list(cache.verify()) == []
    assert cache.prune() == 0
    assert not cache.root.exists()


def test_a_cache_can_be_carried_to_another_machine_and_is_not_backed_up(
    filled, tmp_path, served
) -> None:
    shutil.copytree(filled.root, tmp_path / "usb stick")
    assert Cache(tmp_path / "usb stick", offline=True).fetch(served).path.read_bytes() == BODY
    tag = (filled.root / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")


# Things in the way, and other layouts.


@needs_root
@pytest.mark.parametrize("place", ["", "v1/files", f"v1/files/{DIGEST}-file.bin"])
def test_what_may_not_be_read_is_named(place, served, public_folder) -> None:
    root = public_folder / "cache"
    fetch(root, served, QUICK)
    (root / place).chmod(0o700 if (root / place).is_dir() else 0)
    works = [(fetch, root, served, QUICK), (look_into, root), (prune, root)]
    for work in works[: 1 if place.endswith("bin") else None]:
        with pytest.raises(CacheError, match=f"Cannot read {root}/v1.*Permission denied: ask its"):
            run_as(NOBODY, *work)


IN_THE_WAY = {
    **dict.fromkeys(
        ["", "v1", "v1/files", "v1/records", "v1/incoming", "v1/locks"],
        "A file is in the way of a folder: remove it",
    ),
    **dict.fromkeys(
        [f"v1/files/{DIGEST}-file.bin/x", "v1/records/folder%2Ffile.bin.json/x"],
        "A folder is in the way of a file: remove it",
    ),
}


@pytest.mark.parametrize(("place", "words"), IN_THE_WAY.items())
def test_what_is_in_the_way_is_named(place, words, served, cache) -> None:
    (cache.root / place).parent.mkdir(parents=True, exist_ok=True)
    (cache.root / place).write_text("in the way")
    with pytest.raises(CacheError, match=words):
        cache.fetch(served)


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
    with pytest.raises(CacheError, match="is a link, and a cache has none: remove it"):
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


@pytest.mark.parametrize("place", ["records", "failures"])
def test_a_planted_record_of_any_size_is_not_read(place, filled, resource, server) -> None:
    (filled.root / "v1/failures").mkdir()
    name = hashlib.sha256((server.url + PATH).encode()).hexdigest()[:32]
    record = f"{KEY.replace('/', '%2F')}.json" if place == "records" else name
    with (filled.root / "v1" / place / record).open("w") as file:
        file.truncate(1 << 40)  # a sparse file
    server.script(PATH, whole())
    again = Cache(filled.root, mirrors=(), policy=QUICK)
    with contextlib.suppress(CacheError):
        again.fetch(resource(pinned=False), retry_failed=False)
    (filled.root / "v1/files" / f"{DIGEST}-file.bin").unlink()
    with contextlib.suppress(HubError):
        again.fetch(resource(), retry_failed=False)
    assert again.fetch(resource()).path.read_bytes() == BODY


@pytest.mark.filterwarnings("ignore:.*was damaged")
@pytest.mark.parametrize("kind", NO_FILE)
@pytest.mark.parametrize("place", ["records", "derived", "files", "failures"])
def test_what_is_no_file_is_not_waited_for(kind, place, filled, resource, server) -> None:
    (filled.root / "v1/failures").mkdir()
    mirror = f"{server.url}/mirror{PATH}"
    name = hashlib.sha256(mirror.encode()).hexdigest()[:32]
    for path in [*(filled.root / "v1" / place).iterdir()] or [filled.root / "v1" / place / name]:
        path.unlink(missing_ok=True)
        NO_FILE[kind](path)
    cache = Cache(filled.root, mirrors=[f"{server.url}/mirror"], policy=QUICK)
    with contextlib.suppress(HubError):
        cache.derive(resource(), "reversed.bin", build, retry_failed=False)
    with contextlib.suppress(HubError):
        cache.fetch(resource(pinned=False), retry_failed=False)
    assert len(list(cache.verify())) <= 3


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


@pytest.mark.parametrize("way", ["asked to", "an answer", "time", "clock set back", "pruned"])
def test_a_source_that_failed_is_asked_again(way, server, resource, cache) -> None:
    server.script(PATH, *[status("503 Busy")] * 4, whole())
    with pytest.raises(DownloadError):
        cache.fetch(resource())
    (note,) = (cache.root / "v1/failures").iterdir()
    if way in {"time", "clock set back"}:
        os.utime(note, (0, 0) if way == "time" else (2**32, 2**32))
    elif way == "pruned":
        assert cache.prune() == 0
    elif way == "an answer":
        cache.fetch(resource())
        cache.remove(KEY)
    assert cache.fetch(resource(), retry_failed=way == "asked to").path.read_bytes() == BODY
    assert not note.exists()


@pytest.mark.parametrize("behaviour", [status("404 Not Found"), whole(OTHER)])
def test_a_source_that_answers_at_once_is_always_asked(behaviour, server, resource, cache) -> None:
    server.script(PATH, behaviour)
    for _ in range(2):
        with pytest.raises(HubError):
            cache.fetch(resource(), retry_failed=False)
    assert len(server.requests) == 2
