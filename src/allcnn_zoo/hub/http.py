"""One file from one URL over HTTP: patient with networks, strict about bytes.

Imported only when the network is needed, since it brings requests.
"""

import functools
import http.client
import re
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import requests
import urllib3

from .files import PartialFile, Progress
from .settings import Policy, Resource
from .sources import SourceError, diagnose, one_line

_T = TypeVar("_T")

_BLOCK = 64 * 1024
_RENEWS_RETRIES = 1 << 20
_DECODABLE = {"gzip", "x-gzip", "deflate"}
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # told apart by the first bytes
_RETRYABLE = {408, 425, 429}  # and all of 5xx
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class _TransientError(Exception):
    """This attempt failed; another may not."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _UnreachableError(_TransientError, urllib3.exceptions.ConnectTimeoutError):
    """Nobody answers at this address. Its second base makes `Retry` count it apart."""


class _StalledError(Exception):
    """Work was left behind because it took too long; `work` tells when it ends after all."""

    def __init__(self, seconds: float, work: "Future[Any]") -> None:
        super().__init__(f"Too slow: gave up after {seconds:g} s")
        self.work = work


_FAULTS = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)


class HttpTransfer:
    """A file on its way from one URL, in as many attempts as the policy grants.

    An attempt goes on where the one before was cut, if the server can prove by its ETag that its
    file is still the same; otherwise it starts over.

    Args:
        resource: What is expected.
        url: Where to get it.
        partial: Where to write it.
        session: Carries proxies, certificates and credentials.
        policy: How patient to be.
        progress: Is told about every block.

    Attributes:
        etag: The server's name for this version of the file, if it has one.
    """

    def __init__(
        self,
        resource: Resource,
        url: str,
        partial: PartialFile,
        *,
        session: requests.Session,
        policy: Policy,
        progress: Progress,
    ) -> None:
        self.etag: str | None = None
        self._resource = resource
        self._url = url
        self._partial = partial
        self._session = session
        self._policy = policy
        self._progress = progress
        self._size = resource.size

    def run(self) -> None:
        """Bring the whole body into the partial file.

        Raises:
            SourceError: This URL does not deliver: gone, wrong, or failing in every attempt.
            CacheError: The disk is full.
        """
        retries = self._fresh_retries()
        renewed_at = 0
        while True:
            try:
                return self._attempt()
            except _TransientError as failure:
                if self._partial.size >= renewed_at + _RENEWS_RETRIES:
                    retries, renewed_at = self._fresh_retries(), self._partial.size
                retries = self._spend(retries, failure)
                wait = max(failure.wait, retries.get_backoff_time())
            time.sleep(wait)

    def _fresh_retries(self) -> urllib3.Retry:
        return urllib3.Retry(
            total=self._policy.retries,
            connect=self._policy.connect_retries,
            backoff_factor=self._policy.backoff,
            backoff_jitter=self._policy.backoff,
            backoff_max=self._policy.max_backoff,
        )

    def _spend(self, retries: urllib3.Retry, failure: _TransientError) -> urllib3.Retry:
        try:
            return retries.increment("GET", self._url, error=failure)
        except urllib3.exceptions.MaxRetryError:
            attempts = len(retries.history) + 1
            times = f" ({attempts} attempts)" if attempts > 1 else ""
            raise SourceError(f"{failure}{times}") from failure

    def _attempt(self) -> None:
        offset = self._partial.size if _is_strong(self.etag) else 0
        answer = self._ask(offset)
        try:
            if offset and answer.status == 206:
                self._check_continues(answer, offset)
            elif answer.status == 200:
                self._start_over(answer)
            else:
                self._refuse(answer)
            self._receive(answer)
        finally:
            answer.close()

    def _ask(self, offset: int) -> "_Answer":
        headers = {"Accept-Encoding": "identity"}
        if offset and self.etag:
            headers |= {"Range": f"bytes={offset}-", "If-Range": self.etag}
        timeout = (self._policy.connect_timeout, self._policy.read_timeout)
        hooks = _hooks(self._session)

        def send() -> requests.Response:
            return self._session.get(
                self._url, headers=headers, timeout=timeout, stream=True, hooks=hooks
            )

        try:
            return _Answer(_within(self._policy.response_timeout, send), self._policy)
        except _StalledError as error:
            error.work.add_done_callback(_close_late)
            _exone_line(error)
        except _FAULTS as error:
            _exone_line(error)

    def _refuse(self, answer: "_Answer") -> NoReturn:
        """Give up on this URL, or on this attempt if the status may pass."""
        said = diagnose(answer.head())
        reason = f"{answer.status} {answer.reason}" + (f": {said}" if said else "")
        if answer.status == 416:
            self._forget()
            raise _TransientError(reason)
        if answer.status not in _RETRYABLE and answer.status < 500:
            raise SourceError(reason)
        wait = answer.retry_after()
        if wait > self._policy.max_retry_after:
            raise SourceError(f"{reason}; asks to come back in {wait:,.0f} s")
        raise _TransientError(reason, wait=wait)

    def _check_continues(self, answer: "_Answer", offset: int) -> None:
        """Accept a partial response only if it continues exactly what is already there."""
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        total = match and (self._size if match[3] == "*" else int(match[3]))
        continues = (
            match is not None
            and total is not None  # it may be less than was asked for: somebody must know the end
            and int(match[1]) == offset < total
            and self._size in {None, total}
            and answer.headers.get("ETag", self.etag) == self.etag
            and not answer.encoding
        )
        if not continues:
            self._forget()
            raise _TransientError("a partial response that does not continue the transfer")
        self._size = total

    def _forget(self) -> None:
        """Give up what is there, so that the next attempt asks for the whole file."""
        self.etag = None
        self._partial.restart()

    def _start_over(self, answer: "_Answer") -> None:
        """Take a whole response, if its headers promise the right thing."""
        self._forget()
        expected = self._resource.size
        if self._resource.sha256 is None:
            answer.check_trustworthy(size_is_known=expected is not None)
        answer.choose_decoding(expected)
        if answer.size is not None and expected is not None and answer.size != expected:
            what = diagnose(answer.head()) or f"{answer.size:,} bytes"
            raise SourceError(f"{what} instead of {expected:,} bytes", wrong_bytes=True)
        self.etag = answer.headers.get("ETag")
        self._size = expected if expected is not None else answer.size
        self._partial.need_room(self._size or 0)

    def _receive(self, answer: "_Answer") -> None:
        limit = self._policy.max_size if self._size is None else self._size
        try:
            for block in answer.blocks():
                if self._partial.size + len(block) > limit:
                    raise SourceError(f"more than {limit:,} bytes", wrong_bytes=True)
                self._partial.write(block)
                self._progress.show(self._partial.size, self._size)
        except _TransientError as fault:
            raise _TransientError(f"{fault} {self._so_far()}") from fault
        if self._size is not None and self._partial.size < self._size:
            raise _TransientError(f"Connection closed {self._so_far()}")
        end_is_vague = self._size is None and not answer.is_delimited
        if end_is_vague and self._partial.sha256 != self._resource.sha256:
            raise _TransientError(f"Connection closed {self._so_far()}, not the published ones")

    def _so_far(self) -> str:
        of_all = "" if self._size is None else f" of {self._size:,}"
        return f"after {self._partial.size:,}{of_all} bytes"


class _Answer:
    """A response, seen as a file that arrives in blocks."""

    def __init__(self, response: requests.Response, policy: Policy) -> None:
        self._response = response
        self._policy = policy
        self._decode = False
        self._reader: Future[None] | None = None
        self.status = response.status_code
        self.reason = one_line(response.reason or "")
        self.headers = response.headers
        self.size = _integer(self.headers.get("Content-Length"))
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.is_delimited = chunked or self.size is not None
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        self.encoding = "" if encoding == "identity" else encoding

    def retry_after(self) -> float:
        """How many seconds the server asks to wait, given as a number or as a date."""
        try:
            return float(urllib3.Retry().parse_retry_after(self.headers.get("Retry-After", "0")))
        # Neither numbers of a thousand digits nor the year 99999 are what urllib3 reckons with.
        except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            return 0.0

    def check_trustworthy(self, *, size_is_known: bool) -> None:
        """Refuse what could be cut or replaced on its way with no digest to tell.

        Raises:
            _TransientError: The connection's end is the only sign of the file's end.
            SourceError: A redirect left TLS.
        """
        if not self.is_delimited and not size_is_known:
            raise _TransientError("Nobody states the size, so a cut would go unseen")
        road = [response.url for response in (*self._response.history, self._response)]
        if road[0].startswith("https:") and any(url.startswith("http:") for url in road):
            raise SourceError("redirected from https to http, and no digest is known")

    def choose_decoding(self, expected: int | None) -> None:
        """Undo an encoding that was not asked for.

        Some servers label an archive's own compression as an encoding; then the length is the
        published one, and the bytes are the file as they are.

        Raises:
            SourceError: The encoding is not a known one.
        """
        if not self.encoding or (expected is not None and self.size == expected):
            return
        if self.encoding not in _DECODABLE:
            raise SourceError(f"sends {one_line(self.encoding)} encoding, which was not asked for")
        self._decode = True
        self.size = None  # the length was that of the encoded bytes

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, decoded if need be; what came before a fault still counts.

        Raises:
            _TransientError: The body broke off, came too slowly or cannot be decoded.
        """
        return _decoded(self._raw_blocks()) if self._decode else self._raw_blocks()

    def _raw_blocks(self) -> Iterator[bytes]:
        while True:
            block = bytearray()
            fault: BaseException | None = None
            try:
                _within(self._policy.stall_timeout, functools.partial(self._fill, block))
            except _StalledError as error:
                self._reader = error.work
                self._wake_reader()
                fault = error
            except _FAULTS as error:
                fault = error
            if block:
                yield bytes(block)
            if fault is not None:
                _exone_line(fault)
            if not block:
                return

    def head(self) -> bytes:
        """The beginning of a body that is not wanted, as far as it can be had."""
        try:
            return next(self.blocks(), b"")
        except _TransientError:
            return b""

    def _fill(self, block: bytearray) -> None:
        raw = self._response.raw
        while len(block) < _BLOCK:
            piece = raw.read1(_BLOCK - len(block), decode_content=False)
            if not piece:
                return
            block += piece

    def _wake_reader(self) -> None:
        with suppress(ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()

    def close(self) -> None:
        """Give the connection back, once nobody reads from it any more."""
        if self._reader is None:
            self._response.close()
        else:
            self._reader.add_done_callback(lambda _: self._response.close())


def _decoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Undo gzip or deflate, in blocks of a bounded size.

    Unlike urllib3, insist on the end of the stream: whoever compressed it may have been cut off,
    and passed on what there was as a complete response.

    Raises:
        _TransientError: The stream is damaged, or was cut before it was sent.
    """
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
        raise _TransientError(f"the encoding is damaged ({error})") from error
    if not decoder.eof:
        raise _TransientError("the encoding breaks off")


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns, but do not wait longer than `seconds`.

    Socket timeouts start anew with every byte, so a server that drips headers or chunk sizes can
    hold a reader for days. Here the work goes on in a thread of its own, which can be left behind.

    Raises:
        _StalledError: The time is up.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the waiting thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if future.done():  # the work itself ended in a timeout
            raise
        raise _StalledError(seconds, future) from None


def _hooks(session: requests.Session) -> dict[str, Any]:
    """The hooks of `session`, which those of a request would replace, and one more."""
    own = session.hooks.get("response", [])
    return {"response": [*([own] if callable(own) else own), _leave_body_of_redirect]}


def _leave_body_of_redirect(response: requests.Response, **_: object) -> None:
    """Hang up on whoever sends us elsewhere: requests would read all that comes into memory."""
    if response.is_redirect:
        response.close()


def _close_late(request: "Future[requests.Response]") -> None:
    if request.exception() is None:
        request.result().close()


def _exone_line(error: BaseException) -> NoReturn:
    """Say in a few words what went wrong, and whether it may pass."""
    chain = list(_causes(error))
    root = chain[-1]
    reason = one_line(getattr(root, "strerror", None) or str(root) or type(root).__name__)
    if isinstance(root, http.client.IncompleteRead):
        reason = "Connection closed"
    if type(root) is http.client.BadStatusLine:  # no answer at all is a kind of it, too
        reason = one_line(f"an answer that is not HTTP: {str(root)!r}")
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"proxy: {reason}"
    if isinstance(root, ssl.SSLCertVerificationError):
        raise SourceError(
            f"TLS: {root.verify_message}; if your network has its own certificate authority, "
            "name its file in REQUESTS_CA_BUNDLE"
        ) from error
    if isinstance(error, requests.TooManyRedirects) or isinstance(
        root, urllib3.exceptions.InvalidHeader
    ):
        raise SourceError(reason) from error
    if isinstance(error, ValueError):  # its text may echo a password or a signature
        raise SourceError(f"not a usable address ({type(error).__name__})") from error
    if any(isinstance(link, urllib3.exceptions.ConnectTimeoutError) for link in chain):
        raise _UnreachableError(reason) from error
    raise _TransientError(reason) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_strong(etag: str | None) -> bool:
    return etag is not None and etag.startswith('"')


def _integer(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch("[0-9]{1,19}", value) else None
