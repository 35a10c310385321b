"""The same promises against servers that we did not write: nginx, and moto's S3.

Skipped where they are not installed: ``apt-get install nginx-light``, ``pip install moto[server]``.
"""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from allcnn_zoo.errors import DownloadError, IntegrityError
from allcnn_zoo.hub import Resource

from .conftest import DIGEST, KEY, PATH, until
from .faulty_server import BODY, OTHER, Behaviour, Request, Wire


@dataclass(frozen=True)
class Origin:
    """A real server, what it says of a missing file, and the folder that it serves, if it does."""

    url: str
    missing: str
    folder: Path | None = None

    def publish(self, content: bytes) -> None:
        if self.folder:
            (self.folder / KEY).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / KEY).write_bytes(content)
            return
        headers = {"Authorization": "AWS somebody:something", "x-amz-acl": "public-read"}
        for url, body in ((self.url, b""), (self.url + PATH, content)):
            requests.put(url, body, headers=headers, timeout=10).raise_for_status()


@pytest.fixture(scope="module", params=["nginx", "moto_server"])
def origin(request, tmp_path_factory) -> Iterator[Origin]:
    """A running server of either kind."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url, folder = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp(request.param)
    if request.param == "nginx":
        folder.chmod(0o755)
        temporary = [f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy")]
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {''.join(temporary)}"
            f"server {{ listen 127.0.0.1:{port}; root {folder}/root; }} }}\n"
        )
        command = [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        served = Origin(url, '404 Not Found: an HTML page titled "404', folder / "root")
    else:
        command = [program, "-H", "127.0.0.1", "-p", str(port)]
        missing = "an S3 error (NoSuchKey: The specified key does not exist.)"
        served = Origin(f"{url}/nervana-modelzoo", missing)
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with socket.socket() as probe:
            until(lambda: probe.connect_ex(("127.0.0.1", port)) == 0)
        yield served
    finally:
        process.terminate()
        process.wait()


def relay(url: str, after: int = 10**9, then: Callable[[], None] = lambda: None) -> Behaviour:
    """Pass a request on to a real server, but break off after some bytes of its answer."""

    def answer(request: Request, wire: Wire) -> None:
        address = urlsplit(url)
        lines = [f"GET {address.path}{request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        left = after
        with socket.create_connection((address.hostname, address.port)) as real:
            real.sendall(("\r\n".join(lines) + "\r\nConnection: close\r\n\r\n").encode())
            while left and (block := real.recv(min(left, 65536))):
                wire.send(block)
                left -= len(block)
        then()

    return answer


def test_fetches_and_notes_the_version(origin, cache) -> None:
    origin.publish(BODY)
    file = cache.fetch(Resource(KEY, origin.url + PATH))
    assert file.path.read_bytes() == BODY
    assert file.etag == requests.head(origin.url + PATH, timeout=10).headers["ETag"]


def test_resumes(origin, server, cache) -> None:
    origin.publish(BODY)
    relays = [relay(origin.url, 100_000), relay(origin.url, 120_000), relay(origin.url)]
    url = server.script(PATH, *relays)
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
