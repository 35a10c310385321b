"""The same promises against servers that we did not write: nginx, and moto's S3.

Skipped where they are not installed: ``apt-get install nginx-light``, ``pip install moto[server]``.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from allcnn_zoo.errors import DownloadError, IntegrityError
from allcnn_zoo.hub import Resource

from .conftest import DIGEST, KEY, PATH
from .faulty_server import BODY, OTHER, Behaviour, Request, Wire

BUCKET = "nervana-modelzoo"


@dataclass(frozen=True)
class Origin:
    """A real server, and how to put a file on it."""

    url: str
    publish: Callable[[bytes], None]
    missing: str


@pytest.fixture(scope="module", params=["nginx", "moto_server"])
def origin(request, tmp_path_factory) -> Iterator[Origin]:
    """A running server of either kind."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp(request.param)
    start = nginx if request.param == "nginx" else moto
    command, origin = start(program, port, folder)
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + 120
    try:
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) != 0:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield origin
    finally:
        process.terminate()
        process.wait()


def nginx(program: str, port: int, folder: Path) -> tuple[list[str], Origin]:
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        "events {}\n"
        "http { access_log off; "
        + "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy"))
        + f"server {{ listen 127.0.0.1:{port}; root {folder}/root; }} }}\n"
    )

    def publish(content: bytes) -> None:
        target = folder / "root" / KEY
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    origin = Origin(f"http://127.0.0.1:{port}", publish, '404 Not Found: an HTML page titled "404')
    return [program, "-c", str(config), "-p", str(folder)], origin


def moto(program: str, port: int, folder: Path) -> tuple[list[str], Origin]:
    base = f"http://127.0.0.1:{port}/{BUCKET}"

    def publish(content: bytes) -> None:
        headers = {"Authorization": "AWS somebody:something", "x-amz-acl": "public-read"}
        requests.put(base, headers=headers, timeout=10).raise_for_status()
        requests.put(base + PATH, content, headers=headers, timeout=10).raise_for_status()

    origin = Origin(base, publish, "an S3 error (NoSuchKey: The specified key does not exist.)")
    return [program, "-H", "127.0.0.1", "-p", str(port)], origin


def relay(url: str, after: int | None = None, then: Callable[[], None] | None = None) -> Behaviour:
    """Pass a request on to a real server, but break off after some bytes of its answer."""

    def answer(request: Request, wire: Wire) -> None:
        address = urlsplit(url)
        lines = [f"GET {address.path}{request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        with socket.create_connection((address.hostname, address.port)) as real:
            real.sendall(("\r\n".join(lines) + "\r\nConnection: close\r\n\r\n").encode())
            left = 10**9 if after is None else after
            while left and (block := real.recv(min(left, 65536))):
                wire.send(block)
                left -= len(block)
        if then:
            then()

    return answer


def test_fetches_and_notes_the_version(origin, cache) -> None:
    origin.publish(BODY)
    file = cache.fetch(Resource(KEY, origin.url + PATH))
    assert file.path.read_bytes() == BODY
    assert file.etag == requests.head(origin.url + PATH, timeout=10).headers["ETag"]


def test_resumes(origin, server, cache) -> None:
    origin.publish(BODY)
    url = server.script(
        PATH, relay(origin.url, 100_000), relay(origin.url, 120_000), relay(origin.url)
    )
    assert cache.fetch(Resource(KEY, url, DIGEST, len(BODY))).path.read_bytes() == BODY
    starts = [int(r.headers.get("range", "bytes=0-")[6:-1]) for r in server.requests]
    assert starts[0] == 0 < starts[1] < starts[2]


def test_starts_over_when_the_file_changed_in_between(origin, server, cache) -> None:
    origin.publish(OTHER)
    changed = relay(origin.url, 100_000, then=lambda: origin.publish(BODY + b"!"))
    url = server.script(PATH, changed, relay(origin.url))
    file = cache.fetch(Resource(KEY, url))
    assert "range" in server.requests[1].headers
    assert file.path.read_bytes() == BODY + b"!"


def test_names_what_is_missing_and_refuses_other_bytes(origin, cache) -> None:
    origin.publish(OTHER)
    with pytest.raises(DownloadError) as caught:
        cache.fetch(Resource("missing.bin", f"{origin.url}/missing.bin"))
    assert origin.missing in str(caught.value)
    with pytest.raises(IntegrityError):
        cache.fetch(Resource(KEY, origin.url + PATH, DIGEST))
