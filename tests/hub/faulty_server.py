"""A web server that misbehaves on purpose: raw sockets, one scripted behaviour per request.

A behaviour is a function of the request and the wire. The ones below are the faults that users of
download code have met; `FaultyServer.script` says which requests meet which of them.
"""

import gzip
import http.server
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BODY = random.Random(1412).randbytes(300_000)
"""The file that should arrive: several blocks long, and not compressible."""

OTHER = random.Random(6806).randbytes(len(BODY))
"""Wrong bytes of the right length."""

PORTAL = b"<!DOCTYPE html><html><head><title>Guest Wi-Fi login</title></head></html>"

S3_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Access Denied</Message><RequestId>1</RequestId></Error>"
)


@dataclass(frozen=True)
class Request:
    """What a client asked for; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Wire:
    """The connection that a behaviour answers on."""

    _connection: socket.socket
    _closing: threading.Event
    _sent: list[int]

    def head(self, status: str, **headers: object) -> None:
        """Send a status line and headers; underscores in names become hyphens."""
        lines = [f"HTTP/1.1 {status}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._connection.sendall(data)
        self._sent.append(len(data))

    def reset(self) -> None:
        """Break off with a TCP reset instead of an orderly end."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def hang(self, seconds: float = 300.0) -> None:
        """Say nothing for a while, or until the server is closed."""
        self._closing.wait(seconds)


Behaviour = Callable[[Request, Wire], object]


def whole(
    body: bytes = BODY,
    *,
    etag: str | None = '"v1"',
    ranges: bool = True,
    most: int | None = None,
    length: bool = True,
    then: Callable[[Wire], object] = lambda wire: None,
    **headers: object,
) -> Behaviour:
    """A correct answer with byte ranges, as S3 and nginx give them, or without.

    Of the bytes that were asked for at `most` so many are sent; `then` follows.
    """

    def answer(request: Request, wire: Wire) -> None:
        asked = request.headers.get("range", "")
        is_same = request.headers.get("if-range", etag) == etag
        start = int(asked[6:-1]) if asked and is_same and ranges else 0
        facts = headers | ({"ETag": etag} if etag else {})
        if start >= len(body) > 0:
            wire.head("416 Range Not Satisfiable", Content_Range=f"bytes */{len(body)}")
            return
        if length:
            facts["Content_Length"] = len(body) - start
        if start:
            facts["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        wire.head("206 Partial Content" if start else "200 OK", **facts)
        wire.send(body[start : None if most is None else start + most])
        then(wire)

    return answer


def cut(after: int, body: bytes = BODY, *, reset: bool = False, **options: Any) -> Behaviour:
    """The body ends, or the connection is reset, after some bytes of a whole answer."""

    def then(wire: Wire) -> None:
        if reset:
            time.sleep(0.05)  # let the bytes arrive: a reset overtakes them
            wire.reset()

    return whole(body, most=after, ranges=False, then=then, **options)


def stall(after: int, body: bytes = BODY) -> Behaviour:
    """Silence in the middle of the body."""
    return whole(body, most=after, ranges=False, then=Wire.hang)


def raw(head: str, *parts: bytes, line: str = "200 OK", endless: bool = True) -> Behaviour:
    """These headers, then the parts, the last one again and again if the answer is `endless`."""

    def answer(request: Request, wire: Wire) -> None:
        wire.send(f"HTTP/1.1 {line}\r\n{head}\r\n\r\n".encode())
        for part in parts:
            wire.send(part)
        while endless:
            wire.send(parts[-1])

    return answer


def say(data: bytes) -> Behaviour:
    """These bytes, whatever they are, instead of an answer."""
    return lambda request, wire: wire.send(data)


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = "Transfer-Encoding: chunked"
chunked = raw(CHUNKED, *map(chunk, (BODY[:70_000], BODY[70_000:], b"")), endless=False)
"""A correct answer whose length is not told in advance."""

unchunked_end = raw(f'{CHUNKED}\r\nETag: "v1"', chunk(BODY[:100_000]), endless=False)
"""A chunked body that ends between two chunks, without the last one."""

without_length = raw("X: y", BODY, endless=False)
"""A correct body whose only end is the end of the connection."""

endless = raw(CHUNKED, chunk(BODY))
"""A body without end."""


def reset_at_once(request: Request, wire: Wire) -> None:
    """A reset before the first byte of the answer."""
    wire.reset()


def silence(request: Request, wire: Wire) -> None:
    """No answer at all."""
    wire.hang()


def drip(
    head: bytes, rest: bytes = b"0" * len(BODY), interval: float = 0.05, step: int = 1
) -> Behaviour:
    """`head`, then one byte at a time, each in time for any socket timeout."""

    def answer(request: Request, wire: Wire) -> None:
        wire.send(head)
        for start in range(0, len(rest), step):
            wire.send(rest[start : start + step])
            wire.hang(interval)

    return answer


def slowly(step: int = 20_000, interval: float = 0.002) -> Behaviour:
    """The whole body in small steps."""
    head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nETag: "v1"\r\n\r\n'
    return drip(head.encode(), BODY, interval, step)


def status(line: str, body: bytes = b"", **headers: object) -> Behaviour:
    """A bare status, with or without a body."""

    def answer(request: Request, wire: Wire) -> None:
        wire.head(line, Content_Length=len(body), **headers)
        wire.send(body)

    return answer


def redirect(line: str, location: str) -> Behaviour:
    """A redirect."""
    return status(line, Location=location)


def partial_content(content_range: str, body: bytes, **headers: object) -> Behaviour:
    """A 206, whatever was asked for."""
    return status("206 Partial Content", body, Content_Range=content_range, **headers)


def zipped(body: bytes = BODY, encoding: str = "gzip") -> Behaviour:
    """Content-Encoding, although nobody asked for it."""
    return whole(gzip.compress(body), etag=None, ranges=False, Content_Encoding=encoding)


@dataclass
class FaultyServer:
    """A server on the loopback interface.

    Attributes:
        url: Its base URL.
        requests: What has been asked so far, in order.
        sent: How many bytes of an answer were taken at a time.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    _scripts: dict[str, list[Behaviour]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def script(self, path: str, *behaviours: Behaviour) -> str:
        """Answer requests for `path` by one behaviour each, the last one ever after.

        A method may stand before the path: ``"HEAD /file"``.

        Returns:
            The URL of `path`.
        """
        self._scripts[path] = list(behaviours)
        return self.url + path

    def behaviour(self, request: Request) -> Behaviour:
        """What the next answer to `request` will be."""
        with self._lock:
            self.requests.append(request)
            script = self._scripts.get(f"{request.method} {request.path}")
            script = script or self._scripts.get(request.path, [status("404 Not Found")])
            return script.pop(0) if len(script) > 1 else script[0]


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Clients may break off, too."""


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[FaultyServer]:
    """Start a server in threads of its own; stop it at the end, whatever it is at."""
    closing = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers)
            server.behaviour(request)(request, Wire(self.connection, closing, server.sent))

        do_HEAD = do_GET

    with _Server(("127.0.0.1", 0), Handler) as listener:
        if tls:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        server = FaultyServer(f"http{'s' * bool(tls)}://127.0.0.1:{listener.server_port}")
        threading.Thread(target=listener.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield server
        finally:
            closing.set()
            listener.shutdown()
