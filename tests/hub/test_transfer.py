"""Faults on the way: every one is survived, or refused by name; never is a wrong file kept."""

import gzip
import hashlib
import threading
import zlib
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from allcnn_zoo.errors import DownloadError, HubError, IntegrityError, NeonError
from allcnn_zoo.hub import Cache, Policy, Resource
from allcnn_zoo.hub import http as http_module

from .conftest import DIGEST, IMPATIENT, KEY, PATH, QUICK, arrived, get, pinned_or_not, until
from .faulty_server import (
    BODY,
    CHUNKED,
    OTHER,
    PORTAL,
    S3_ERROR,
    Behaviour,
    chunk,
    chunked,
    cut,
    drip,
    endless,
    partial_content,
    raw,
    redirect,
    reset_at_once,
    say,
    silence,
    slowly,
    stall,
    status,
    unchunked_end,
    whole,
    without_length,
    zipped,
)

ZIPPED = gzip.compress(BODY)
IN_GZIP = {"etag": None, "Content_Encoding": "gzip"}

# Each is followed by the whole file.
SURVIVED: dict[str, list[Behaviour]] = {
    "no fault": [],
    "reset before the answer": [reset_at_once],
    **{f"reset after {n} bytes": [cut(n, reset=True)] for n in (0, 1, 150_000, len(BODY) - 1)},
    "reset three times": [cut(n, reset=True) for n in (1, 70_000, 200_000)],
    "truncated body with Content-Length": [cut(100_000)],
    "truncated body without Content-Length": [cut(100_000, length=False)],
    "chunked body": [chunked],
    "chunked body without its last chunk": [unchunked_end],
    "no Content-Length": [without_length],
    "garbage instead of HTTP": [say(b"\x00\xff" * 50 + b"\r\n\r\n")],
    "200 to a Range request": [cut(100_000), whole(ranges=False)],
    "416 to a Range request": [cut(100_000), status("416 Range Not Satisfiable")],
    "no Content-Range": [cut(100_000), status("206 Partial Content", BODY[100_000:])],
    **{
        f"{what} in a 206": [cut(100_000), partial_content(range_, body, ETag=etag)]
        for what, range_, body, etag in (
            ("wrong start", "bytes 99999-299999/300000", BODY[99_999:], '"v1"'),
            ("wrong total", "bytes 100000-299999/300001", BODY[100_000:], '"v1"'),
            ("untold total", "bytes 100000-299999/*", BODY[100_000:], '"v1"'),
            ("another ETag", "bytes 100000-299999/300000", OTHER[100_000:], '"v2"'),
            ("less", "bytes 100000-199999/300000", BODY[100_000:200_000], '"v1"'),
        )
    },
    "gzip": [zipped()],
    "gzip in two members": [
        whole(gzip.compress(BODY[:99_999]) + gzip.compress(BODY[99_999:]), **IN_GZIP)
    ],
    "deflate": [whole(zlib.compress(BODY), Content_Encoding="deflate")],
    "a cut inside gzip": [whole(ZIPPED[:200_000], **IN_GZIP)],
    "deceptive gzip label": [whole(Content_Encoding="x-gzip")],
    "429": [status("429 Too Many Requests")],
    "500": [status("500 Internal Server Error")],
    "502 with a page": [status("502 Bad Gateway", PORTAL)],
    "503": [status("503 Service Unavailable")],
    **{
        f"Retry-After {value:.30}": [status("503 Busy", Retry_After=value)]
        for value in ("soon", "9" * 5_000, *(f"Wed, 21 Oct {y} 07:28:00" for y in (99999, 10**11)))
    },
}

SLOW: dict[str, Behaviour] = {
    "stall before the body": stall(0),
    "stall in mid-body": stall(100_000),
    "silence before the answer": silence,
    "slow drip of the headers": drip(b"HTTP/1.1 200 OK\r\nX-Drip: "),
    "slow drip of the body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", BODY),
    "slow drip of a chunk size": drip(f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n".encode()),
}


@pinned_or_not
@pytest.mark.parametrize("behaviours", SURVIVED.values(), ids=SURVIVED)
def test_survives(behaviours, pinned, server, resource, tmp_path) -> None:
    server.script(PATH, *behaviours, whole())
    receipt = get(resource(pinned), tmp_path)
    assert (receipt.sha256, receipt.size) == (DIGEST, len(BODY))
    assert arrived(tmp_path) == BODY


@pytest.mark.parametrize("behaviour", SLOW.values(), ids=SLOW)
def test_does_not_wait_for_ever(behaviour, server, resource, tmp_path) -> None:
    server.script(PATH, behaviour, whole())
    get(resource(), tmp_path, policy=IMPATIENT)
    assert arrived(tmp_path) == BODY
    if behaviour is not SLOW["slow drip of the headers"]:
        until(lambda: not any(thread.name == "hub" for thread in threading.enumerate()))


# What is refused, by the words with which it is refused.

UNAVAILABLE: dict[str, Behaviour] = {
    "403 Forbidden": status("403 Forbidden"),
    "403 Forbidden: an S3 error (AccessDenied: Access Denied)": status("403 Forbidden", S3_ERROR),
    "404 Not Found": status("404 Not Found"),
    "410 Gone": status("410 Gone"),
    "204 No Content": status("204 No Content"),
    "206 Partial Content": partial_content("bytes 0-299999/300000", BODY),  # nobody asked for it
    "Connection closed after 99,999 of 300,000 bytes (4 attempts)": cut(99_999),
    "Connection reset by peer (4 attempts)": reset_at_once,
    "503 Busy (4 attempts)": status("503 Busy"),
    "not HTTP: 'SSH-2.0-OpenSSH_9.6": say(b"SSH-2.0-OpenSSH_9.6\r\n"),
    r"not HTTP: '\x00\x00": say(bytes(100)),
    "Content-Length contained multiple unmatching values": raw(
        "Content-Length: 5\r\nContent-Length: 300000", endless=False
    ),
    "sends br encoding": zipped(encoding="br"),
    "Exceeded 30 redirects": redirect("302 Found", PATH),
    "not a usable address (": redirect("302 Found", "http://[::1"),
    "not a usable address (InvalidSchema)": redirect("302 Found", "file:///etc/passwd"),
    "not a usable address (UnicodeDecodeError)": redirect("302 Found", "/\xff"),
}
WRONG: dict[str, Behaviour] = {
    "instead of sha256": whole(OTHER),
    'an HTML page titled "Guest Wi-Fi login" (a captive portal': whole(PORTAL),
    "an S3 error (AccessDenied": whole(S3_ERROR),
    "0 bytes instead of 300,000 bytes": whole(b""),
    "300,001 bytes instead of 300,000": whole(BODY + b"!"),
    "more than 300,000 bytes": endless,
}


@pytest.mark.parametrize("words", [*UNAVAILABLE, *WRONG])
def test_refuses_by_name(words, server, resource, tmp_path) -> None:
    url = server.script(PATH, (UNAVAILABLE | WRONG)[words])
    with pytest.raises(IntegrityError if words in WRONG else DownloadError) as caught:
        get(resource(), tmp_path)
    assert words in str(caught.value)
    assert f"\n  {url}: " in str(caught.value)
    assert "ALLCNN_ZOO_MIRRORS" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert arrived(tmp_path) is None


ON_FIRST_USE: dict[str, tuple[Behaviour, str]] = {
    "captive portal": (whole(b" \n" + PORTAL), "Guest Wi-Fi login"),
    "S3 error with status 200": (whole(S3_ERROR), "AccessDenied"),
    "empty body": (whole(b""), "an empty file"),
    "empty chunked body": (raw(CHUNKED, chunk(b""), endless=False), "an empty file"),
    "a cut inside gzip": (
        whole(ZIPPED[:200_000], **IN_GZIP),
        r"the encoding breaks off after [0-9,]+ bytes \(4 attempts\)",
    ),
    "damage inside gzip": (whole(ZIPPED[:-8] + bytes(8), **IN_GZIP), "the encoding is damaged"),
    "end of connection as only end": (without_length, "a cut would not be noticed"),
    **{  # only exactly "chunked" is chunked
        coding: (
            raw(f"Transfer-Encoding: {coding}", BODY[:100_000], endless=False),
            "a cut would not be noticed",
        )
        for coding in ("xchunked", "chunkedx", "gzip, chunked", "chunked;q=1", "identity")
    },
}


@pytest.mark.parametrize(("behaviour", "words"), ON_FIRST_USE.values(), ids=ON_FIRST_USE)
def test_refuses_on_first_use(behaviour, words, server, resource, tmp_path) -> None:
    server.script(PATH, behaviour)
    with pytest.raises(HubError, match=words):
        get(resource(pinned=False), tmp_path)
    assert arrived(tmp_path) is None


# Whatever a source sends is bounded in bytes and time, and the next source is tried.

GZIP = "Content-Encoding: gzip"
EMPTY_MEMBERS = gzip.compress(b"") * 3_000
STORED = b"\x00\x00\x00\xff\xff" * 12_000  # empty blocks of deflate
BOMB = gzip.compress(bytes(20_000_000))
HUGE = 9_999_999_999_999_999_999

BOUNDED: dict[str, Behaviour] = {
    "gzip of nothing, again and again": raw(GZIP, EMPTY_MEMBERS),
    "gzip with a name without end": raw(GZIP, b"\x1f\x8b\x08\x08" + bytes(6), b"n" * 60_000),
    "gzip with a comment without end": raw(GZIP, b"\x1f\x8b\x08\x10" + bytes(6), b"c" * 60_000),
    "gzip of empty blocks": raw(GZIP, b"\x1f\x8b\x08\x00" + bytes(6), STORED),
    "deflate of empty blocks": raw("Content-Encoding: deflate", b"\x78\x9c", STORED),
    "gzip that unpacks to more": raw(f"{GZIP}\r\nContent-Length: {len(BOMB)}", BOMB),
    "a body without end": raw("X: y", BODY),
    "an absurd length": raw(f"Content-Length: {HUGE}", BODY),
    "a length above the limit": raw("Content-Length: 500001", BODY),
    "an absurd total in Content-Range": raw(f"Content-Range: bytes 0-1/{HUGE}", BODY),
    "chunks without end": endless,
    "a chunk of absurd size": raw(CHUNKED, b"fffffffffffffff\r\n", BODY),
    "a size of a chunk without end": raw(CHUNKED, b"0" * 60_000),
}


@pinned_or_not
@pytest.mark.parametrize("behaviour", BOUNDED.values(), ids=BOUNDED)
def test_bounds_what_one_source_sends_and_asks_the_next(
    behaviour, pinned, server, resource, tmp_path
) -> None:
    server.script("/bad" + PATH, behaviour)
    server.script(PATH, whole())
    policy = replace(IMPATIENT, max_size=500_000, retries=2)
    get(resource(pinned, size=None), tmp_path, mirrors=[server.url + "/bad"], policy=policy)
    assert arrived(tmp_path) == BODY
    assert sum(server.sent) < 60_000_000, "sockets hold some megabytes that nobody reads"


def test_a_source_has_only_so_much_time(server, resource, tmp_path) -> None:
    """Every block comes in time, every attempt makes progress, and yet it would take for ever."""
    server.script("/slow" + PATH, slowly(10_000, interval=0.1))
    server.script(PATH, whole())
    policy = replace(QUICK, source_timeout=0.3)
    receipt = get(resource(), tmp_path, mirrors=[server.url + "/slow"], policy=policy)
    assert receipt.url == server.url + PATH


SILENT: dict[str, Behaviour] = {
    "no answer": silence,
    "no end of the headers": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "100 Continue without end": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, step=25),
}


@pytest.mark.parametrize("behaviour", SILENT.values(), ids=SILENT)
def test_a_server_that_never_answers_is_given_up_after_two_attempts_with_a_word(
    behaviour, server, resource, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(http_module, "SOON", 0.05)
    server.script(PATH, behaviour)
    with pytest.raises(DownloadError, match=r"gave up after 0.2 s \(2 attempts\)"):
        get(resource(), tmp_path, policy=replace(IMPATIENT, response_timeout=0.2))
    assert len(server.requests) == 2
    assert "file.bin: waiting for 127.0.0.1" in caplog.messages
    assert Policy().response_timeout * 2 < 20


@pytest.mark.parametrize(
    ("behaviour", "words", "requests"),
    [
        (reset_at_once, "Connection reset by peer", 4),
        (cut(100_000, reset=True), "Connection reset by peer", 4),
        (status("404 Not Found"), "404 Not Found", 1),
    ],
    ids=["reset", "reset in mid-body", "404"],
)
def test_the_reason_is_not_what_the_caller_handles(
    behaviour, words, requests, server, resource, tmp_path
) -> None:
    server.script(PATH, behaviour)
    try:
        _ = {}["the caller's secret"]
    except KeyError:
        with pytest.raises(DownloadError, match=words) as caught:
            get(resource(), tmp_path)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == requests


# Redirects, resuming and retrying.

FOUND = "Location: /elsewhere\r\n" + CHUNKED
REDIRECTS: dict[str, Behaviour] = {
    **{
        line: redirect(line, "/elsewhere")
        for line in ("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent")
    },
    "whose body never comes": drip(f"HTTP/1.1 302 Found\r\n{FOUND}\r\n\r\n".encode()),
    "whose body has no end": raw(FOUND, chunk(BODY), line="302 Found"),
}


@pytest.mark.parametrize("redirected", REDIRECTS.values(), ids=REDIRECTS)
def test_follows_redirects(redirected, server, resource, tmp_path) -> None:
    server.script(PATH, redirected)
    server.script("/elsewhere", cut(100_000), whole())
    assert get(resource(), tmp_path).url == server.url + PATH
    assert server.requests[-1].headers["range"] == "bytes=100000-"
    assert [request.path for request in server.requests] == [PATH, "/elsewhere"] * 2
    assert arrived(tmp_path) == BODY


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', None], ids=["ETag", "weak ETag", "no ETag"])
def test_asks_for_the_missing_part_only_of_a_proved_version(
    etag, server, resource, tmp_path
) -> None:
    server.script(PATH, cut(100_000, etag=etag), cut(0), whole())
    get(resource(), tmp_path)
    asked = [{k: v for k, v in each.headers.items() if "range" in k} for each in server.requests]
    part = {"range": "bytes=100000-", "if-range": '"v1"'}
    assert asked[:2] == [{}, part if etag == '"v1"' else {}]
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert arrived(tmp_path) == BODY


def test_progress_renews_the_retries(server, tmp_path) -> None:
    body = BODY * 20
    url = server.script(PATH, whole(body, most=1_200_000))
    get(Resource(KEY, url, hashlib.sha256(body).hexdigest(), len(body)), tmp_path)
    assert len(server.requests) > QUICK.retries + 1
    assert arrived(tmp_path) == body


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_honours_retry_after(as_date, server, resource, tmp_path, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(http_module.time, "sleep", slept.append)
    moment = datetime.now(timezone.utc) + timedelta(seconds=90)
    value = format_datetime(moment, usegmt=True) if as_date else "90"
    server.script(PATH, status("429 Too Many Requests", Retry_After=value), whole())
    get(resource(), tmp_path)
    assert 60 < slept[0] <= 90


@pytest.mark.parametrize("value", ["86400", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_does_not_wait_for_a_day(value, server, resource, tmp_path) -> None:
    server.script(PATH, status("503 Service Unavailable", Retry_After=value))
    with pytest.raises(DownloadError, match=r"503 Service Unavailable; asks to come back in"):
        get(resource(), tmp_path)
    assert len(server.requests) == 1


NOT_HERE: dict[str, Behaviour] = {
    "403": status("403 Forbidden"),
    "404": status("404 Not Found"),
    "wrong bytes": whole(OTHER),
    "captive portal": whole(PORTAL),
    "redirect loop": redirect("302 Found", "/mirror" + PATH),
}


@pytest.mark.parametrize("behaviour", NOT_HERE.values(), ids=NOT_HERE)
def test_goes_to_the_next_source_at_once(behaviour, server, resource, tmp_path) -> None:
    server.script("/mirror" + PATH, behaviour)
    server.script(PATH, whole())
    assert get(resource(), tmp_path, mirrors=[f"{server.url}/mirror/"]).url == server.url + PATH
    assert list(dict.fromkeys(r.path for r in server.requests)) == ["/mirror" + PATH, PATH]
    assert arrived(tmp_path) == BODY


def test_names_every_source_with_its_reason(server, resource, tmp_path) -> None:
    server.script("/a" + PATH, status("403 Forbidden"))
    server.script("/b" + PATH, status("500 Oops"))
    mirrors = [server.url + "/a", server.url + "/b", str(tmp_path / "nowhere")]
    with pytest.raises(DownloadError) as caught:
        get(resource(), tmp_path, mirrors=mirrors)
    assert str(caught.value).splitlines()[:5] == [
        f"No source delivered {KEY}:",
        f"  {server.url}/a/{KEY}: 403 Forbidden",
        f"  {server.url}/b/{KEY}: 500 Oops (4 attempts)",
        f"  {tmp_path}/nowhere/{KEY}: No such file or directory",
        f"  {server.url}/{KEY}: 404 Not Found",
    ]


def test_what_a_stranger_writes_is_escaped_and_short(server, resource, tmp_path) -> None:
    page = b"<html><title>\x1b[2J" + b"A" * 100_000 + b"\x07</title>"
    server.script(PATH, status("403 No\x1b[31m", page), whole(etag='"\x1b[2J"'))
    for wanted in (resource(), Resource(url=server.url + "/\x1b[2J\u202e\n.bin")):
        with pytest.raises(DownloadError) as caught:
            get(wanted, tmp_path)
        assert all(map(str.isprintable, str(caught.value).split("\n")))
        assert len(str(caught.value)) < 1_500
    assert get(resource(), tmp_path).etag == r'"\x1b[2J"'


def test_a_check_refuses_what_only_the_caller_can_judge(server, resource, tmp_path) -> None:
    def check(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise NeonError("not what I call weights")

    server.script("/mirror" + PATH, whole(OTHER))
    server.script(PATH, whole(), whole(OTHER))
    unpinned = resource(pinned=False)
    cache = Cache(tmp_path / "cache", mirrors=[f"{server.url}/mirror"], policy=QUICK)
    assert cache.fetch(unpinned, check=check).sha256 == DIGEST
    with pytest.raises(IntegrityError, match="not accepted: not what I call weights"):
        Cache(tmp_path / "again", mirrors=(), policy=QUICK).fetch(unpinned, check=check)
