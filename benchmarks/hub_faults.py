"""Which download library survives what: runs five of them against the same faulty server.

    python benchmarks/hub_faults.py --peers PYTHON    # of a venv with pip install '.[bench]'
    python benchmarks/hub_faults.py --render          # the page only, from the last results

Writes benchmarks/results/hub_faults.json and, from it alone, docs/hub-faults.md.
"""

import argparse
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.hub.faulty_server import (  # noqa: E402
    BODY,
    OTHER,
    PORTAL,
    S3_ERROR,
    Behaviour,
    FaultyServer,
    Request,
    Wire,
    cut,
    drip,
    partial_content,
    redirect,
    reset_at_once,
    running,
    silence,
    stall,
    status,
    whole,
    zipped,
)

RESULTS = ROOT / "benchmarks" / "results" / "hub_faults.json"
TABLE = ROOT / "docs" / "hub-faults.md"
WORKER = ROOT / "benchmarks" / "hub_clients.py"

CLIENTS = ("allcnn_zoo", "torch_hub", "huggingface_hub", "pooch", "keras")
TAKES_NO_DIGEST = {"huggingface_hub"}
PATH = "/org/repo/resolve/main/file.bin"  # where huggingface_hub looks; the others take any
DIGEST = hashlib.sha256(BODY).hexdigest()
PATIENCE = 75.0
"""Seconds after which a call counts as hung. No library here states a longer timeout."""


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: What happens.
        script: The server's answers, one a request; the last one holds.
        reason: What an error has to mention to name the reason.
        passes: Whether trying again would help, so that surviving is the right outcome.
        needs_digest: Whether only a published digest can tell.
    """

    name: str
    script: tuple[Behaviour, ...]
    reason: str
    passes: bool = True
    needs_digest: bool = False


DRIP_HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nETag: "v1"\r\n\r\n'
CLOSED = "sha256|hash|digest|closed|incomplete|truncat|retrieval|reset|aborted|shorter|size|cut"
SLOW = "time|slow|stall"
DIFFERS = "sha256|hash|digest|checksum|size|bytes"

FAULTS = (
    Fault("no fault", (whole(),), ""),
    Fault("reset before the answer", (reset_at_once, whole()), CLOSED),
    Fault("reset in mid-body", (cut(150_000, reset=True), whole()), CLOSED),
    Fault("body cut, length announced", (cut(150_000), whole()), CLOSED),
    Fault("body cut, length not announced", (cut(150_000, length=False), whole()), DIFFERS),
    Fault("silence before the answer", (silence, whole()), SLOW),
    Fault("silence in mid-body", (stall(150_000), whole()), SLOW),
    Fault("one byte a second of the headers", (drip(DRIP_HEAD[:-4], interval=1.0), whole()), SLOW),
    Fault("one byte a second of the body", (drip(DRIP_HEAD, BODY, interval=1.0), whole()), SLOW),
    Fault(
        "cut, then the whole file to a Range request", (cut(150_000), whole(ranges=False)), CLOSED
    ),
    Fault(
        "cut, then the wrong part to a Range request",
        (cut(150_000), partial_content("bytes 0-149999/300000", BODY[:150_000]), whole()),
        CLOSED,
    ),
    Fault(
        "cut, then another version to a Range request",
        (
            cut(150_000),
            partial_content("bytes 150000-299999/300000", OTHER[150_000:], ETag='"v2"'),
            whole(),
        ),
        CLOSED,
    ),
    Fault(
        "429, come back in a second",
        (status("429 Too Many Requests", Retry_After=1), whole()),
        "429",
    ),
    Fault("503 once", (status("503 Service Unavailable"), whole()), "503"),
    Fault("gzip encoding nobody asked for", (zipped(),), DIFFERS),
    Fault("403 with an S3 error", (status("403 Forbidden", S3_ERROR),), "403|denied", passes=False),
    Fault("404", (status("404 Not Found"),), "404", passes=False),
    Fault("redirect loop", (redirect("302 Found", PATH),), "redirect", passes=False),
    Fault("wrong bytes of the right length", (whole(OTHER),), DIFFERS, False, needs_digest=True),
    Fault("longer than published", (whole(BODY + OTHER),), DIFFERS, False, needs_digest=True),
    Fault("captive portal", (whole(PORTAL),), "html|portal|sha256|hash|size", passes=False),
    Fault("empty body", (whole(b""),), "empty|sha256|hash|size|0 bytes", passes=False),
)


@dataclass(frozen=True)
class Result:
    """A cell of the table.

    Attributes:
        fault: Its row.
        client: Its column.
        digest_given: Which of the two tables.
        verdict: What came of it.
        seconds: How long the call took, where that was measured.
        message: What the error said.
        flaw: What was wrong although the right bytes came back.
    """

    fault: str
    client: str
    digest_given: bool
    verdict: str
    seconds: float = 0.0
    message: str = ""
    flaw: str = ""


class Call:
    """One call under way.

    Args:
        process: The process number of the child that makes it.
        outcome: The file in which the child writes down what came of it.
    """

    def __init__(self, process: int, outcome: Path) -> None:
        self.process = process
        self._outcome = outcome
        self._start = time.monotonic()

    def result(self) -> dict[str, Any]:
        """The outcome, or ``{"hung": True}``; with the seconds that it took."""
        while not self._outcome.exists():
            if time.monotonic() > self._start + PATIENCE:
                self.kill()
                return {"hung": True, "seconds": PATIENCE}
            time.sleep(0.02)
        seconds = time.monotonic() - self._start
        return {**json.loads(self._outcome.read_text()), "seconds": seconds}

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with suppress(ProcessLookupError):
            while True:
                os.kill(self.process, signal.SIGKILL)
                time.sleep(0.02)


class Client:
    """A download library in a process of its own, which forks for every call."""

    def __init__(self, name: str, interpreter: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self._process = subprocess.Popen(
            [interpreter, str(WORKER), name],
            env=environment | {"KERAS_BACKEND": "torch", "HF_HUB_DISABLE_XET": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, url: str, digest: str, folder: Path) -> Call:
        """Begin to fetch a file into a folder."""
        outcome = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
        job = {"url": url, "digest": digest, "folder": str(folder), "outcome": str(outcome)}
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            return Call(int(self._answer()), outcome)

    def call(self, url: str, digest: str, folder: Path) -> dict[str, Any]:
        """Fetch a file into a folder."""
        return self.start(url, digest, folder).result()


def met(fault: Fault, client: Client, digest: str) -> Result:
    """Meet a fault; then ask again, with the server in order, to see what was kept."""
    with served(fault.script) as (server, url), fresh_folder() as folder:
        outcome = client.call(url, digest, folder)
        if "path" in outcome:
            verdict = judged(outcome)
        else:
            verdict = "hung" if "hung" in outcome else f"error {quality(outcome, url, fault)}"
            server.script(PATH, whole())
            if judged(client.call(url, digest, folder)) == "wrong file":
                verdict = f"{verdict}, then wrong file"
    message = outcome.get("message", "").replace(str(folder), "DIR").replace(url, "URL")
    return Result(fault.name, client.name, bool(digest), verdict, outcome["seconds"], message[:600])


def killed(client: Client, digest: str) -> Result:
    """SIGKILL in mid-body, then a second call."""
    with served((stall(150_000), whole())) as (server, url), fresh_folder() as folder:
        call = client.start(url, digest, folder)
        while not any(request.method == "GET" for request in server.requests):
            time.sleep(0.05)
        time.sleep(1.0)
        call.kill()
        verdict = judged(client.call(url, digest, folder))
        flaw = rubbish(folder)
    return Result("killed in mid-body, then again", client.name, bool(digest), verdict, flaw=flaw)


def raced(client: Client, digest: str) -> Result:
    """Eight processes on an empty cache."""
    with served((slowly,)) as (server, url), fresh_folder() as folder:
        calls = [client.start(url, digest, folder) for _ in range(8)]
        outcomes = [call.result() for call in calls]
        gets = sum(request.method == "GET" for request in server.requests)
        verdicts = {judged(outcome) for outcome in outcomes}
    verdict = verdicts.pop() if len(verdicts) == 1 else "some failed"
    flaw = f"{gets} downloads" if gets > 1 else ""
    return Result("eight processes at once", client.name, bool(digest), verdict, flaw=flaw)


def damaged(client: Client, digest: str) -> Result:
    """A flipped bit in the cache."""
    with served((whole(),)) as (_, url), fresh_folder() as folder:
        first = client.call(url, digest, folder)
        verdict = judged(first)
        if verdict == "survived":
            Path(first["path"]).resolve().write_bytes(bytes([BODY[0] ^ 1]) + BODY[1:])
            verdict = judged(client.call(url, digest, folder))
    return Result("a flipped bit in the cache", client.name, bool(digest), verdict)


def offline(client: Client, digest: str) -> Result:
    """A second call when nobody listens at the address any more."""
    with fresh_folder() as folder:
        with served((whole(),)) as (_, url):
            client.call(url, digest, folder)
        verdict = judged(client.call(url, digest, folder))
    return Result("cached, and the server is gone", client.name, bool(digest), verdict)


def full_disk(client: Client, digest: str) -> Result:
    """A disk that is smaller than the file; once there is space, a second call."""
    with served((whole(),)) as (_, url), fresh_folder() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
        subprocess.run(mount, check=True, capture_output=True)
        try:
            outcome = client.call(url, digest, folder)
            flaw = rubbish(folder)
            remount = ["mount", "-o", "remount,size=10m", str(folder)]
            subprocess.run(remount, check=True, capture_output=True)
            again = judged(client.call(url, digest, folder))
            verdict = judged(outcome)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    if verdict == "error":
        verdict = f"error {quality(outcome, url, Fault('', (), 'space|disk|full'))}"
    if again == "wrong file":
        verdict = f"{verdict}, then wrong file"
    return Result("disk full", client.name, bool(digest), verdict, flaw=flaw)


@contextmanager
def served(script: tuple[Behaviour, ...]) -> Iterator[tuple[FaultyServer, str]]:
    """A server with one file; questions about its metadata are always answered correctly."""
    with running() as server:
        server.script(f"HEAD {PATH}", describe)
        yield server, server.script(PATH, *script)


def describe(request: Request, wire: Wire) -> None:
    """What huggingface_hub asks before it downloads."""
    wire.head("200 OK", Content_Length=len(BODY), ETag='"v1"', X_Repo_Commit="0" * 40)


def slowly(request: Request, wire: Wire) -> None:
    wire.head("200 OK", Content_Length=len(BODY), ETag='"v1"')
    for start in range(0, len(BODY), 30_000):
        wire.send(BODY[start : start + 30_000])
        wire.hang(0.2)


@contextmanager
def fresh_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "cache"  # outcomes are written beside it
        folder.mkdir()
        yield folder


def judged(outcome: dict[str, Any]) -> str:
    """Whether the right bytes came back."""
    if "path" in outcome:
        return "survived" if Path(outcome["path"]).read_bytes() == BODY else "wrong file"
    return "hung" if "hung" in outcome else "error"


def rubbish(folder: Path) -> str:
    """What lies about that has a good part of the download, but not all of it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    count = sum(10_000 < path.stat().st_size < len(BODY) for path in files)
    return f"{count} unfinished file{'s' if count > 1 else ''} left" if count else ""


def quality(outcome: dict[str, Any], url: str, fault: Fault) -> str:
    """What an error message tells its reader: the address, the reason, a variable that helps."""
    message = f"{outcome['error']} {outcome['message']}"
    told = [
        name
        for name, pattern in {
            "address": f"{re.escape(url)}|{re.escape(PATH)}",
            "reason": fault.reason,
            "remedy": r"\b[A-Z]+_[A-Z_]{3,}\b",
        }.items()
        if re.search(pattern, message, 0 if name == "remedy" else re.IGNORECASE)
    ]
    return f"({', '.join(told) or 'says nothing useful'})"


def run(peers: str, workers: int) -> dict[str, Any]:
    clients = {
        name: Client(name, sys.executable if name == "allcnn_zoo" else peers) for name in CLIENTS
    }
    jobs: list[Callable[[], Result]] = []
    races: list[Callable[[], Result]] = []
    for digest, client in itertools.product((DIGEST, ""), clients.values()):
        if digest and client.name in TAKES_NO_DIGEST:
            continue
        faults = [fault for fault in FAULTS if digest or not fault.needs_digest]
        jobs += [functools.partial(met, fault, client, digest) for fault in faults]
        jobs += [functools.partial(life, client, digest) for life in (killed, damaged, offline)]
        if os.getuid() == 0:  # may mount a small disk
            jobs.append(functools.partial(full_disk, client, digest))
        races.append(functools.partial(raced, client, digest))
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda job: job(), jobs))
    results += [race() for race in races]  # these need the machine for themselves
    return {
        "python": platform.python_version(),
        "patience_seconds": PATIENCE,
        "versions": {name: client.version for name, client in clients.items()},
        "results": [asdict(result) for result in results],
    }


INTRODUCTION = """# Download faults: five libraries compared

Generated by `benchmarks/hub_faults.py` from `benchmarks/results/hub_faults.json`; do not edit.

{totals}
## Method

Each library meets the same faulty server on the loopback interface, each call in its own process
and folder, with default settings. Faults above "403" affect only the first request; the right
outcome (✔) is the correct file. Those from "403" to "empty body", and a full disk, affect all
requests; the right outcome is an error and no file. In the last rows of a table, nothing may be
left behind, and one download must serve all processes. After each error the server is repaired and
the library called again, to see whether it kept a wrong file.

- **survived**: the correct bytes came back.
- **error (…)**: an exception; in brackets what its text names: the *address*, the *reason*, or a
  *remedy* (an environment variable to set).
- **wrong file**: the call returned without an error, and the bytes are wrong.
- **hung**: no answer within {patience:.0f} seconds.

Python {python}.
"""


def render(report: dict[str, Any]) -> str:
    """The page, from the results alone."""
    versions = report["versions"]
    totals, tables = [], []
    for given, title in ((True, "With a published digest"), (False, "Without a digest")):
        results = [Result(**r) for r in report["results"] if r["digest_given"] == given]
        clients = [client for client in CLIENTS if any(r.client == client for r in results)]
        faults = len({result.fault for result in results})
        note = "; huggingface_hub takes no digest" if given else ""
        totals.append(f"{title} ({faults} faults{note}):\n\n{summary(results, clients)}")
        tables.append(f"## {title}\n\n{table(results, clients, versions)}")
    introduction = INTRODUCTION.format(
        totals="\n".join(totals), patience=report["patience_seconds"], python=report["python"]
    )
    return "\n".join([introduction, *tables])


def table(results: list[Result], clients: list[str], versions: dict[str, str]) -> str:
    cells = {(result.fault, result.client): result for result in results}
    heads = [f"{client} {versions[client]}" for client in clients]
    lines = ["| fault | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for fault in dict.fromkeys(result.fault for result in results):
        row = [cell(cells[fault, client]) for client in clients]
        lines.append(f"| {fault} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def cell(result: Result) -> str:
    mark = "✔" if as_it_should_be(result) else "✘"
    return f"{mark} {result.verdict}" + (f"; {result.flaw}" if result.flaw else "")


def as_it_should_be(result: Result) -> bool:
    """Whether the outcome is the right one for its fault."""
    if result.flaw:
        return False
    lasting = {fault.name for fault in FAULTS if not fault.passes} | {"disk full"}
    if result.fault in lasting:
        return result.verdict.startswith("error") and "wrong" not in result.verdict
    return result.verdict == "survived"


def summary(results: list[Result], clients: list[str]) -> str:
    lines = ["| | " + " | ".join(clients) + " |", "|---" * (len(clients) + 1) + "|"]
    counts: dict[str, Callable[[Result], bool]] = {
        "right outcome": as_it_should_be,
        "wrong file": lambda result: "wrong file" in result.verdict,
        "hung": lambda result: result.verdict.startswith("hung"),
    }
    for name, holds in counts.items():
        row = [sum(holds(r) for r in results if r.client == client) for client in clients]
        lines.append(f"| **{name}** | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the others")
    parser.add_argument("--workers", type=int, default=12, help="calls at a time")
    parser.add_argument("--render", action="store_true", help="only write the page anew")
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    arguments = parser.parse_args()
    if arguments.check:
        current = TABLE.read_text() == render(json.loads(RESULTS.read_text()))
        sys.exit(None if current else f"{TABLE.relative_to(ROOT)} is out of date: use --render")
    if not arguments.render:
        report = run(arguments.peers, arguments.workers)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    TABLE.write_text(render(json.loads(RESULTS.read_text())))
    print(f"wrote {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
