"""Where files come from: mirrors of every kind, and networks with peculiarities."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import ssl
import stat
import sys
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import trustme

from allcnn_zoo import storage
from allcnn_zoo.errors import DownloadError, HubError, IntegrityError, OfflineError, ResourceError
from allcnn_zoo.hub import Cache, Resource, download

from .conftest import DIGEST, KEY, NO_FILE, PATH, QUICK, get, pinned_or_not
from .faulty_server import BODY, OTHER, FaultyServer, chunked, cut, redirect, running, status, whole


@pytest.fixture
def bucket(tmp_path) -> Path:
    """A local folder that mirrors the bucket."""
    file = tmp_path / "a bucket" / KEY
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    return tmp_path / "a bucket"


@pytest.fixture
def nowhere() -> str:
    """A URL at a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}{PATH}"


def test_mirrors_are_tried_in_order_and_once_before_the_official_url(
    server, resource, tmp_path, monkeypatch
) -> None:
    bases = [f" {server.url}/1 ", " ", f"{server.url}/1", f"{server.url}/2/", ""]
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", ",".join(bases))
    server.script(PATH, whole())
    get(resource(), tmp_path, mirrors=None)
    assert [request.path for request in server.requests] == ["/1" + PATH, "/2" + PATH, PATH]


@pytest.mark.parametrize("base", ["{path}", "~/a bucket", "{uri}", "file://localhost{uri}"])
def test_local_mirrors(base, bucket, nowhere, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mirror = base.format(path=bucket, uri=bucket.as_uri()).replace("localhostfile://", "localhost")
    assert (
        get(Resource(KEY, nowhere, DIGEST), tmp_path, mirrors=[mirror], offline=True).etag is None
    )


@pytest.mark.parametrize("size", [None, len(BODY)])
@pytest.mark.parametrize("content", [OTHER, BODY[:-1], BODY + b"!", b""])
def test_damaged_local_mirror(content, size, bucket, server, tmp_path) -> None:
    (bucket / KEY).write_bytes(content)
    url = server.script(PATH, whole())
    assert get(Resource(KEY, url, DIGEST, size), tmp_path, mirrors=[str(bucket)]).url == url


@pytest.mark.parametrize("thing", ["missing", *NO_FILE])
def test_local_mirrors_without_a_regular_file(thing, bucket, nowhere, tmp_path) -> None:
    (bucket / KEY).unlink()
    if thing in NO_FILE:
        NO_FILE[thing](bucket / KEY)
    with pytest.raises(OfflineError, match=r"not a regular file|No such file or directory"):
        get(Resource(KEY, nowhere, DIGEST), tmp_path, mirrors=[str(bucket)], offline=True)


YES, NO = ["1", "true", "Yes", "on", "2", "anything"], ["", "0", "false", "No", " off "]


@pytest.mark.parametrize("value", [*YES, *NO])
def test_offline_asks_nobody(value, server, resource, tmp_path, monkeypatch) -> None:
    server.script(PATH, whole())
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", value)
    if value in NO:
        get(resource(), tmp_path)
    else:
        with pytest.raises(OfflineError, match="not tried: ALLCNN_ZOO_OFFLINE is set"):
            get(resource(), tmp_path)
        assert server.requests == []


def test_refused_connection(nowhere, tmp_path) -> None:
    with pytest.raises(DownloadError, match=rf"\n  {nowhere}: Connection refused \(2 attempts\)"):
        get(Resource(KEY, nowhere), tmp_path)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "Name or service not known"), (2, "Too slow: gave up after 0.2 s")]
)
def test_a_name_that_is_unknown_or_never_resolved(seconds, words, tmp_path, monkeypatch) -> None:
    def no_such_name(*_: object) -> None:
        time.sleep(seconds)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    policy = replace(QUICK, response_timeout=0.2 if seconds else 8.0)
    with pytest.raises(DownloadError, match=rf"{words} \(2 attempts\)"):
        get(Resource(KEY, f"https://weights.invalid{PATH}"), tmp_path, policy=policy)


MALFORMED: dict[str, list[dict[str, object]]] = {
    "no address": [{"url": ""}],
    "not a valid address": [{"url": "https://[::1"}],
    "supported: use https://": [
        {"url": url}
        for url in (
            *("http://", "https:/host/file", "https:host/file", "http:///file", "s3:bucket"),
            *("s3://bucket/file", "FTP://host/file", "hf://owner/name", "data:,x"),
            *("gs://u:password@b/f?Signature=secret", "ftp:/u:password@b/f?Signature=secret"),
        )
    ],
    "name": [
        {"key": key}
        for key in (
            *("", "/a", "a/", "a//b", "../a", "a/../b", ".a", "-a", "~/a", "%2F"),
            *("a\\b", "a b", "a\n", "a:b", "ä", "x" * 121, "a/" * 100 + "a"),
        )
    ],
    "sha256": [{"sha256": sha256} for sha256 in ("ABC", DIGEST.upper(), "")],
    "negative size": [{"size": -1}],
}


@pytest.mark.parametrize("words", MALFORMED)
def test_malformed_resources_are_refused_at_once(words) -> None:
    for facts in MALFORMED[words]:
        with pytest.raises(ResourceError, match=words) as caught:
            Resource(**({"key": KEY, "url": "https://example.org"} | facts))  # type: ignore[arg-type]
        assert not re.search("secret|password", str(caught.value))


@pytest.mark.parametrize("kind", ["http", "file", "path", "home"])
@pinned_or_not
def test_a_file_at_any_address(kind, pinned, bucket, server, cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = {
        "http": server.script("/any%20place/w%C3%A4rm.bin?id=3", whole()),
        "file": (bucket / KEY).as_uri(),
        "path": str(bucket / KEY),
        "home": f"~/a bucket/{KEY}",
    }[kind]
    resource = Resource(url=url, sha256=DIGEST if pinned else None)
    mirrored = Cache(cache.root, mirrors=["/nowhere"], policy=QUICK)  # not tried without a key
    assert mirrored.fetch(resource).path.read_bytes() == BODY
    shutil.rmtree(bucket)
    assert Cache(cache.root, offline=True).fetch(resource).key == resource.cache_key
    assert len(server.requests) == (kind == "http")


UNUSABLE = {
    "~nosuchuser/folder": "No such file or directory",
    **dict.fromkeys(["file://[oops", "file:///%00"], "not a usable path: "),
    "file://elsewhere/folder": "a file URL names a local path",
    **dict.fromkeys(["s3://bucket", "http://"], "not supported: use https://"),
    "https://[::1": "not a valid address",
    "http://*.example.org": "not a usable address",
}


@pytest.mark.parametrize(("mirror", "words"), UNUSABLE.items())
def test_a_mirror_that_cannot_be_used_is_named_and_passed_over(
    mirror, words, bucket, nowhere, tmp_path
) -> None:
    wanted = Resource(KEY, nowhere, DIGEST)
    with pytest.raises(DownloadError) as caught:
        get(wanted, tmp_path, mirrors=[mirror])
    assert f"\n  {mirror.rstrip('/')}/{KEY}: {words}" in str(caught.value)
    get(wanted, tmp_path, mirrors=[mirror, str(bucket)])


def test_a_relative_path_is_another_file_in_another_folder(cache, tmp_path, monkeypatch) -> None:
    for folder, content in (("one", BODY), ("two", OTHER)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.bin").write_bytes(content)
        monkeypatch.chdir(tmp_path / folder)
        assert cache.fetch(Resource(url="file.bin")).path.read_bytes() == content


def test_two_addresses_never_share_a_key() -> None:
    addresses = [
        *("https://a/f.bin", "https://b/f.bin", "https://a/x/f.bin", "https://a/f.bin?v=2"),
        *("/a/f.bin", "a/f.bin", "file:///a/f.bin", "https://a", "https://a/", "x" * 5000),
        *("https://a/\x1b[2J", "/a/..", "/a/.", "C:\\f.bin", "https://a/%2e%2e%2f", "/a/\udcff"),
    ]
    keys = {Resource(url=address).cache_key for address in addresses}
    assert len(keys) == len(addresses)
    assert all(key.isascii() and key.count("/") == 1 and "/." not in key for key in keys)


@pytest.fixture
def authority(tmp_path, monkeypatch) -> trustme.CA:
    """A certificate authority that requests knows."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def secure(authority) -> Iterator[FaultyServer]:
    """A server that shows a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with running(context) as server:
        yield server


def test_tls(secure, tmp_path, monkeypatch) -> None:
    url = secure.script(PATH, cut(100_000), chunked)
    get(Resource(KEY, url, DIGEST), tmp_path)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(DownloadError, match="REQUESTS_CA_BUNDLE") as caught:
        get(Resource("another", url), tmp_path)
    assert "TLS: unable to get local issuer certificate" in str(caught.value)


def test_leaving_tls_on_first_use(secure, server, tmp_path) -> None:
    url = secure.script(PATH, redirect("302 Found", server.script(PATH, whole())))
    with pytest.raises(DownloadError, match="redirected from https to http"):
        get(Resource(KEY, url), tmp_path)
    get(Resource(KEY, url, DIGEST), tmp_path)


def test_a_proxy_is_used(server, tmp_path, monkeypatch) -> None:
    url = f"http://weights.invalid{PATH}"
    monkeypatch.setenv("http_proxy", server.url)
    server.script(url, whole(), status("407 Proxy Authentication Required"))  # whole URLs
    get(Resource(KEY, url, DIGEST), tmp_path)
    with pytest.raises(DownloadError, match="407 Proxy Authentication Required"):
        get(Resource(KEY, url), tmp_path)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://127.0.0.1:9", "proxy: Connection refused"),
        ("socks5://127.0.0.1:1", r"SOCKS needs PySocks: pip install 'requests\[socks\]'"),
        ("socks4a://user:secret@127.0.0.1:1", "SOCKS needs PySocks"),
        ("pigeon://127.0.0.1:1", r"not a usable address \(ProxySchemeUnknown\)"),
        ("http://", r"not a usable address \(InvalidProxyURL\)"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(proxy, words, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setitem(sys.modules, "socks", None)
    with pytest.raises(DownloadError, match=words) as caught:
        get(Resource(KEY, f"http://weights.invalid{PATH}"), tmp_path)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_all_sources_wrong_is_an_integrity_error_even_if_one_is_down(
    server, nowhere, tmp_path
) -> None:
    server.script("/mirror" + PATH, whole(OTHER))
    with pytest.raises(IntegrityError, match="Connection refused"):
        get(Resource(KEY, nowhere, DIGEST), tmp_path, mirrors=[server.url + "/mirror"])


# Secrets go to the hosts that they are meant for, and into no text.

SECRET = {"X-Api-Key": "secret", "Authorization": "Bearer secret"}


@pytest.fixture
def elsewhere() -> Iterator[FaultyServer]:
    """A server at another address."""
    with running() as server:
        yield server


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A session with everything that could tell who somebody is."""
    with requests.Session() as session:
        session.headers.update(SECRET)
        session.cookies["login"] = "secret"
        session.params = {"token": "secret"}  # type: ignore[assignment]
        yield session


def knows(server: FaultyServer) -> list[bool]:
    """Which requests told the server a secret."""
    return ["secret" in f"{request.path} {request.headers}" for request in server.requests]


def test_a_sessions_secrets_go_to_the_mirror_and_not_to_the_official_host(
    server, elsewhere, session, tmp_path
) -> None:
    url = elsewhere.script(PATH, whole())
    get(Resource(KEY, url, DIGEST), tmp_path, mirrors=[server.url], session=session)
    assert (knows(server), knows(elsewhere)) == ([True], [False])


@pytest.mark.parametrize("target", ["http://{other}", "//{other}", "http://{own}@{other}"])
def test_a_sessions_secrets_and_hooks_do_not_follow_a_redirect(
    target, server, elsewhere, session, tmp_path
) -> None:
    seen: list[int] = []
    session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    target = target.format(own=server.url[7:], other=elsewhere.url[7:])
    server.script(f"{PATH}?token=secret", redirect("302 Found", target + "/a"))
    elsewhere.script("/a", redirect("307 Temporary Redirect", server.url + "/b"))
    server.script("/b?token=secret", whole())
    get(Resource(KEY, server.url + PATH, DIGEST), tmp_path, session=session)
    assert (knows(server), knows(elsewhere)) == ([True, True], [False])
    assert seen == [302, 307, 200]


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ("default login me password secret", False),
        ("machine elsewhere.org login me password secret", False),
        ("machine 127.0.0.1 login me password secret", True),
        ("machine 127.0.0.1 login me password secret default login x password y", True),
        ("machine 127.0.0.1 login me password secret default login me password secret", True),
        ("machine 127.0.0.1.org login me password secret", False),
        ("nonsense", False),
        ("machine elsewhere.org login me password gehe\xefm", False),  # not UTF-8
    ],
)
def test_netrc_logs_in_at_its_own_hosts_only(
    lines, sent, server, resource, tmp_path, monkeypatch
) -> None:
    (tmp_path / "netrc").write_text(lines + "\n", "latin-1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script(PATH, whole())
    get(resource(), tmp_path)
    login = "Basic " + b64encode(b"me:secret").decode()
    assert server.requests[0].headers.get("authorization") == (login if sent else None)


def test_a_login_in_the_url_is_used_and_stays_out_of_records(server, cache) -> None:
    server.script(PATH + "?X-Amz-Signature=secret", whole())
    url = server.url.replace("//", "//me:s%23cret@") + PATH + "?X-Amz-Signature=secret"
    assert cache.fetch(Resource(KEY, url)).url == server.url + PATH
    expected = "Basic " + b64encode(b"me:s#cret").decode()
    assert server.requests[0].headers["authorization"] == expected
    records = [path.read_text() for path in cache.root.rglob("*.json")]
    assert not re.search("secret|cret@|me:", "".join(records))


SECRET_URLS = [
    *(f"http://127.0.0.1:9/{end}" for end in ("f?sig=hunter2", "f#hunter2", "f?a=b@hunter2")),
    "http://127.0.0.1:9/f;sig=hunter2",
    *("http://127.0.0.1:9/fi le?sig=hunter2", "https://127.0.0.1:99999/file?sig=hunter2"),
    *("http://user:hunter2@[::1/file", "http://user:hunter2/b@127.0.0.1:9/file?c@d"),
    *(
        f"http://{login}@127.0.0.1:9/file"
        for login in ("user:hunter2", "hunter2", "user:a@hunter2")
    ),
    *(f"http://user:a{mark}hunter2@127.0.0.1:9/file" for mark in "/#?"),
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_text_tells_a_secret_not_even_a_traceback(url, tmp_path) -> None:
    policy = replace(QUICK, response_timeout=1.0, retries=0)
    with pytest.raises(HubError) as caught:
        download(Resource(url=url), tmp_path / "file", policy=policy)
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told
    assert "127.0.0.1" in told or "..." in told or "valid address" in told


# File systems with peculiarities.


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK]
)
def test_file_systems_that_can_do_less_will_do(
    number, server, resource, cache, tmp_path, monkeypatch
) -> None:
    """No permissions, no fsync, no locks, no hard links, and nobody knows the free space."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for owner, name in (
        *((os, "fsync"), (os, "chmod"), (os, "fchmod"), (Path, "chmod"), (Path, "hardlink_to")),
        *((os, "utime"), (os, "link"), (os, "chown")),
        *((fcntl, "flock"), (fcntl, "lockf"), (shutil, "disk_usage")),
    ):
        monkeypatch.setattr(owner, name, refuse)
    server.script(PATH, whole())
    get(resource(), tmp_path)
    for _ in range(2):
        assert cache.fetch(resource(sha256=None)).path.read_bytes() == BODY
    storage.write_atomically(tmp_path / "weights", BODY)
    assert (tmp_path / "weights").read_bytes() == BODY


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "link": Path.symlink_to,
    "hard link": Path.hardlink_to,
    "link to a new file": lambda lock, victim: lock.symlink_to(victim.with_name("new")),
    "folder": lambda lock, _: lock.mkdir(),
    "fifo": lambda lock, _: os.mkfifo(lock),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_lock_leads_nowhere(server, resource, cache, tmp_path, kind) -> None:
    """What a link in the place of a lock names stays as it is, and nothing waits for a fifo."""
    server.script(PATH, whole())
    victim = tmp_path / "victims" / "victim"
    victim.parent.mkdir()
    victim.write_text("precious")
    name = hashlib.sha256(b"file.bin").hexdigest()[:32]
    for lock in (f"got/.{name}.lock", "cache/v1/locks/folder%2Ffile.bin.lock"):
        link = tmp_path / lock
        link.parent.mkdir(parents=True, exist_ok=True)
        PLANTED[kind](link, victim)
    get(resource(), tmp_path)
    assert cache.fetch(resource()).path.read_bytes() == BODY
    assert list(victim.parent.iterdir()) == [victim]
    assert victim.read_text() == "precious"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
