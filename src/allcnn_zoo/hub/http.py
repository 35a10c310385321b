"""One file from one URL over HTTP: with retries, and strict about bytes.

Imported only when the network is needed, because it imports requests.
"""

import http.client
import netrc
import os
import queue
import random
import re
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_auth_from_url, requote_uri

from ..storage import expanded
from .files import HEAD_SIZE, SOON, PartialFile
from .settings import Policy, Resource
from .sources import SourceError, diagnose, one_line

_BLOCK = 256 * 1024
_MOST_WAITING = 4  # blocks that have arrived and are not written yet
_CONNECT_TIMEOUT = 5.0
_LEAST = 64 * 1024  # bytes that have to arrive within a stall's timeout
_RENEWS_RETRIES = 1 << 20
_MOST_UNANSWERED = 2  # attempts at a host that cannot be reached or never answers
_LONGEST_RETRY_AFTER = 120.0
_MOST_REDIRECTS = 30
_DECODABLE = {"gzip", "x-gzip", "deflate"}
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # told apart by the first bytes
_RETRYABLE = {408, 425, 429}  # and all of 5xx
_Send = Callable[[], tuple[requests.Response, list[str]]]  # gives the addresses on the way, too
_FAULTS = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)


class Sessions:
    """Sends requests: to trusted hosts by the caller's session, to others without its secrets."""

    def __init__(self, own: requests.Session | None, trusted: Iterable[str]) -> None:
        self._own = own
        self._trusted = {_origin(url) for url in trusted}
        self._other = requests.Session()
        if own is not None:
            for name in ("adapters", "hooks", "proxies", "trust_env", "verify"):
                setattr(self._other, name, getattr(own, name))

    def get(self, url: str, **options: Any) -> requests.Response:
        """Ask for one URL; a redirect is returned like any other answer, without its body."""
        own = self._own if _origin(url) in self._trusted else None
        session = own or self._other
        hooks = session.hooks.get("response", [])
        hooks = [*([hooks] if callable(hooks) else hooks), _leave_body_of_redirect]
        auth = None if session.auth else _login(url, look_up=session.trust_env)
        return session.get(
            url, auth=auth, hooks={"response": hooks}, stream=True, allow_redirects=False, **options
        )

    def close(self) -> None:
        """Close connections that are not the caller's."""
        if self._own is None:
            self._other.close()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    with suppress(ValueError):
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, port
    return url, None, None


def _login(url: str, *, look_up: bool) -> Any:
    """The login in a URL, or that of its host in .netrc, but never .netrc's default entry."""
    if any(login := get_auth_from_url(url)):
        return login
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    found = [path for path in map(expanded, places) if look_up and os.path.exists(path)]  # noqa: PTH110
    for path in found[:1]:
        with suppress(OSError, ValueError, LookupError, netrc.NetrcParseError):
            user, account, password = netrc.netrc(path).hosts[urlsplit(url).hostname or ""]
            return user or account or "", password
    return lambda request: request  # else requests would look for a login, too


def _leave_body_of_redirect(response: requests.Response, **_: object) -> None:
    """Close a redirect at once: requests would read its body into memory, however long it is."""
    if response.is_redirect:
        response.close()


@dataclass
class HttpTransfer:
    """A transfer from one URL, in as many attempts as the policy allows.

    An attempt continues where the previous one stopped, if the size is known and the server's ETag
    proves that its file is the same; otherwise it starts over. The download of an interrupted call
    is continued without that proof, because it is kept only if the digest is known.
    """

    resource: Resource
    url: str
    partial: PartialFile
    sessions: Sessions
    policy: Policy

    def __post_init__(self) -> None:
        self._etag: str | None = None
        self._size = self.resource.size
        self._limit = self.policy.max_size if self.resource.size is None else self.resource.size
        # Compression and framing may add a little to a file, and every attempt may start over.
        most = self._limit + self._limit // 8 + _LEAST
        self._left = most * (self.policy.retries + 1)
        self._deadline = time.monotonic() + self.policy.source_timeout

    def run(self) -> str | None:
        """Write the whole body into the partial file and return its ETag, or a `SourceError`."""
        failures = unanswered = renewed_at = 0
        while True:
            try:
                return self._attempt()
            except SourceError as error:
                if error.kind != "passing":
                    raise
                failure = error
            size = self.partial.size
            if size >= renewed_at + _RENEWS_RETRIES:
                failures, unanswered, renewed_at = 0, 0, size
            failures += 1
            unanswered += not failure.answered
            if failures > self.policy.retries or unanswered >= _MOST_UNANSWERED:
                of_all = "" if self._size is None else f" of {self._size:,}"
                after = f" after {size:,}{of_all} bytes" if size else ""
                times = f" ({failures} attempts)" if failures > 1 else ""
                raise SourceError(f"{failure}{after}{times}", "exhausted")
            backoff = self.policy.backoff * 2 ** (failures - 2) * random.uniform(1, 2)  # noqa: S311
            pause = max(failure.wait, backoff * (failures > 1))
            if pause > SOON:
                self.partial.progress.waiting(f"{failure}; next attempt in {pause:.0f} s")
            time.sleep(pause)

    def _attempt(self) -> str | None:
        headers = {"Accept-Encoding": "identity"}
        proof = self._etag if (self._etag or "").startswith('"') else None
        may_continue = self._size is not None and (proof or self.partial.is_left_over)
        offset = self.partial.size if may_continue else 0
        if offset:
            headers["Range"] = f"bytes={offset}-"
        if offset and proof:
            headers["If-Range"] = proof
        host, say = urlsplit(self.url).hostname, self.partial.progress.waiting
        with closing(_Answer(lambda: self._send(headers), host, say)) as answer:
            answer.read_headers(self.policy.response_timeout)
            if answer.status == 200:
                self._start_over(answer)
            elif answer.status != 206 or not offset:
                self._refuse(answer)
            elif not self._continues(answer, offset):
                self._forget()
                raise SourceError(
                    "a partial response that does not continue the transfer", "passing"
                )
            self._receive(answer)
            return self._etag

    def _send(self, headers: dict[str, str]) -> tuple[requests.Response, list[str]]:
        """Send the request and follow redirects, so that each host gets only its credentials."""
        timeout = (_CONNECT_TIMEOUT, self.policy.stall_timeout)
        road = [self.url]
        while True:
            response = self.sessions.get(road[-1], headers=headers, timeout=timeout)
            target = requests.sessions.SessionRedirectMixin().get_redirect_target(response)
            if target is None:
                return response, road
            if len(road) > _MOST_REDIRECTS:
                raise SourceError(f"Exceeded {_MOST_REDIRECTS} redirects")
            road.append(urljoin(road[-1], requote_uri(target)))

    def _refuse(self, answer: "_Answer") -> NoReturn:
        """Give up on this URL, or on this attempt if the status may pass."""
        said = diagnose(self._head(answer))
        reason = f"{answer.status} {answer.reason}" + (f": {said}" if said else "")
        if answer.status == 416:
            self._forget()
            raise SourceError(reason, "passing")
        if answer.status not in _RETRYABLE and answer.status < 500:
            raise SourceError(reason)
        try:
            asked = urllib3.Retry().parse_retry_after(answer.headers.get("Retry-After", "0"))
        # urllib3 fails for numbers of a thousand digits and for the year 99999.
        except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            asked = 0.0
        if asked > _LONGEST_RETRY_AFTER:
            raise SourceError(f"{reason}; asks to come back in {asked:,.0f} s")
        raise SourceError(reason, "passing", wait=asked)

    def _continues(self, answer: "_Answer", offset: int) -> bool:
        """Whether a partial response begins exactly where the transfer broke, in the same file."""
        begins = re.fullmatch(
            f"bytes {offset}-[0-9]+/{self._size}", answer.headers.get("Content-Range", "")
        )
        etag = answer.headers.get("ETag", self._etag)
        is_same = self._etag in {None, etag}
        self._etag = etag
        return begins is not None and is_same and not answer.encoding

    def _forget(self) -> None:
        """Discard what has arrived, so that the next attempt asks for the whole file."""
        self._etag = None
        self.partial.restart()

    def _start_over(self, answer: "_Answer") -> None:
        """Take a whole response, if its headers promise the right thing."""
        self._forget()
        expected = self.resource.size
        if self.resource.sha256 is None:  # which would show what was cut or replaced on the way
            if not answer.is_delimited and expected is None:
                raise SourceError("no size is known, so a cut would not be noticed", "passing")
            schemes = [url.partition(":")[0].lower() for url in answer.road]
            if schemes[0] == "https" and "http" in schemes:
                raise SourceError("redirected from https to http, and no digest is known")
        if expected is not None and answer.size == expected:
            answer.encoding = ""  # it is the archive's own compression
        elif answer.encoding:
            if answer.encoding not in _DECODABLE:
                said = one_line(answer.encoding)
                raise SourceError(f"sends {said} encoding, which was not asked for")
            answer.size = None  # it was that of the encoded bytes
        if answer.size is not None:
            if expected is not None and answer.size != expected:
                what = diagnose(self._head(answer)) or f"{answer.size:,} bytes"
                raise SourceError(f"{what} instead of {expected:,} bytes", "wrong bytes")
            if answer.size > self._limit:
                raise SourceError(f"{answer.size:,} bytes; at most {self._limit:,} are accepted")
        self._etag = answer.headers.get("ETag")
        self._size = expected if expected is not None else answer.size
        self.partial.need_room(self._size or 0)

    def _receive(self, answer: "_Answer") -> None:
        limit = self._limit if self._size is None else self._size
        for block in self._blocks(answer):
            if self.partial.size + len(block) > limit:
                raise SourceError(f"more than {limit:,} bytes", "wrong bytes")
            self.partial.write(block, self._size)
        is_whole = self.partial.size == self._size
        if self._size is None:  # only the end of the connection may tell the end of the file
            is_whole = answer.is_delimited or self.partial.sha256 == self.resource.sha256
        if not is_whole:
            raise SourceError("Connection closed", "passing")

    def _head(self, answer: "_Answer") -> bytes:
        """Read the beginning of an error page, as far as it arrives."""
        head = b""
        with suppress(SourceError):
            for block in self._blocks(answer):
                head += block
                if len(head) >= HEAD_SIZE:
                    break
        return head

    def _blocks(self, answer: "_Answer") -> Iterator[bytes]:
        """Yield the decoded body; what arrived before a fault is yielded first."""
        blocks = self._raw_blocks(answer)
        return _decoded(blocks) if answer.encoding in _DECODABLE else blocks

    def _raw_blocks(self, answer: "_Answer") -> Iterator[bytes]:
        """Yield the body as it was sent, unless it is too slow, too much or takes too long."""
        patience, needed = self.policy.stall_timeout, _LEAST
        while True:
            start = time.monotonic()
            block = answer.next(max(patience, 0.0), self.policy.stall_timeout)
            if not block:
                return
            patience -= time.monotonic() - start
            needed -= len(block)
            if needed <= 0:
                patience, needed = self.policy.stall_timeout, _LEAST
            self._left -= len(block)
            if self._left < 0:
                raise SourceError(f"sent far more than {self._limit:,} bytes", "wrong bytes")
            if time.monotonic() > self._deadline:
                raise SourceError(f"took more than {self.policy.source_timeout:,.0f} s")
            yield block


class _Answer:
    """The response to `send`, received in a thread that can be abandoned.

    Nothing else limits the time to look up a host name. And a socket's timeout restarts with every
    byte, so headers or chunk sizes could arrive slowly for days.
    """

    def __init__(self, send: _Send, host: str | None, say: Callable[[str], None]) -> None:
        self._host = host
        self._say = say
        self._response: requests.Response | None = None
        self._is_closed = False
        self._arrivals: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        threading.Thread(target=self._receive, args=[send], name="hub", daemon=True).start()

    def _receive(self, send: _Send) -> None:
        try:
            response, road = send()
            with closing(response):
                self._arrivals.put((response, road))
                block = None
                while block != b"" and not self._is_closed:
                    block = response.raw.read1(_BLOCK, decode_content=False)
                    self._arrivals.put(block)
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            self._arrivals.put(error)

    def close(self) -> None:
        """Close the connection, which soon ends the thread."""
        self._is_closed = True
        if self._response is not None:
            with suppress(ValueError, RuntimeError, OSError):
                self._response.raw.shutdown()
        with suppress(queue.Empty):  # it may wait for room
            while True:
                self._arrivals.get_nowait()

    def next(self, seconds: float, timeout: float) -> Any:
        """Wait `seconds`, what is left of `timeout`, for what arrives next."""
        try:
            try:
                arrival = self._arrivals.get(timeout=min(seconds, SOON))
            except queue.Empty:
                self._say(f"waiting for {self._host}")
                arrival = self._arrivals.get(timeout=max(seconds - SOON, 0.0))
                self._say("")
        except queue.Empty:
            reason = f"Too slow: gave up after {timeout:g} s"
            has_answered = self._response is not None
            raise SourceError(reason, "passing", answered=has_answered) from None
        if isinstance(arrival, _FAULTS):
            raise _explained(arrival)
        if isinstance(arrival, BaseException):
            raise arrival
        return arrival

    def read_headers(self, timeout: float) -> None:
        """Wait for the headers, and read them."""
        self._response, self.road = self.next(timeout, timeout)
        self.status = self._response.status_code
        self.reason = one_line(self._response.reason or "")
        self.headers = self._response.headers
        length = self.headers.get("Content-Length", "")
        self.size = int(length) if re.fullmatch("[0-9]{1,19}", length) else None
        # Exactly what http.client takes for chunked; of all else, only a length tells the end.
        is_chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        self.is_delimited = is_chunked or self.size is not None
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        self.encoding = "" if encoding == "identity" else encoding


def _decoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Undo gzip or deflate, in bounded blocks; unlike urllib3, insist on the end of the stream."""
    decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        for block in blocks:
            rest = block
            while rest:
                if decoder.eof:  # gzip may come in several members
                    decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
                if piece := decoder.decompress(rest, _BLOCK):
                    yield piece
                rest = decoder.unconsumed_tail or decoder.unused_data
        yield decoder.flush()
    except zlib.error as error:
        raise SourceError(f"the encoding is damaged ({error})", "passing") from None
    if not decoder.eof:
        raise SourceError("the encoding breaks off", "passing")


def _explained(error: BaseException) -> Exception:
    """Turn a fault into an error without a cause: the cause's text may contain a password."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    root = chain[-1]
    reason = one_line(getattr(root, "strerror", None) or str(root) or type(root).__name__)
    if isinstance(root, http.client.IncompleteRead):
        reason = "Connection closed"
    if type(root) is http.client.BadStatusLine:  # its subclass means no answer at all
        reason = one_line(f"an answer that is not HTTP: {str(root)!r}")
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"proxy: {reason}"
    if isinstance(root, ssl.SSLCertVerificationError):
        return SourceError(
            f"TLS: {root.verify_message}; if your network has its own certificate authority, "
            "name its file in REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return SourceError("proxy: SOCKS needs PySocks: pip install 'requests[socks]'")
    if isinstance(root, urllib3.exceptions.InvalidHeader):
        return SourceError(reason)
    if isinstance(error, ValueError | http.client.InvalidURL):  # their texts repeat the address
        return SourceError(f"not a usable address ({type(root).__name__})")
    unreachable = (urllib3.exceptions.ConnectTimeoutError, requests.Timeout)
    return SourceError(
        reason, "passing", answered=not any(isinstance(e, unreachable) for e in chain)
    )
