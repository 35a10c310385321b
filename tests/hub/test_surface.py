"""What the hub costs to import, what it shows, and what it may know."""

import ast
import contextlib
import errno
import io
import os
import pwd
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from allcnn_zoo import hub
from allcnn_zoo.errors import CacheError
from allcnn_zoo.hub import Cache
from allcnn_zoo.hub.files import Progress

AUDITED = """
import sys
import allcnn_zoo.hub
seen = sorted({'requests', 'urllib3', 'filelock', 'tqdm', 'torch', 'numpy'} & {*sys.modules})
def note(event, arguments):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.system", "os.exec"):
        seen.append(event)
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"wrote {arguments[0]}")
sys.addaudithook(note)
from allcnn_zoo.errors import OfflineError
from allcnn_zoo.hub import Cache, Resource
for resource in (Resource("a/b.bin", "https://example.org/a/b.bin"), Resource(url="http://a.b/c")):
    try:
        Cache().fetch(resource)
    except OfflineError:
        seen.append("refused")
print(*[event for event in seen if sys.argv[1] not in event], sep="\\n")
"""


def test_its_import_is_light_and_offline_it_opens_no_socket_and_writes_to_the_cache_alone(
    private_environment, monkeypatch
) -> None:
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    command = [sys.executable, "-c", AUDITED, str(private_environment)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "refused"]


def test_it_stands_on_errors_and_storage_alone() -> None:
    for path in Path(hub.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                names = [node.module] if node.module else [name.name for name in node.names]
                assert {*names} <= {"errors", "storage"}, path.name


def test_the_cache_is_where_the_variable_says(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("ALLCNN_ZOO_CACHE", "~/models")
    assert Cache().root == Path("/home/somebody/models")
    monkeypatch.delenv("ALLCNN_ZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/somebody")
    if sys.platform == "linux":
        assert Cache().root == Path("/var/somebody/allcnn_zoo")


@pytest.mark.parametrize("user", ["named", "unknown", "homeless"])
def test_without_a_home_the_variable_is_named(user, monkeypatch) -> None:
    """A container may run as a user that no list of users has."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    if user == "named":
        monkeypatch.setenv("ALLCNN_ZOO_CACHE", "~nosuchuser/cache")
    else:
        for name in ("ALLCNN_ZOO_CACHE", "HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
    if user == "unknown":
        monkeypatch.setattr(pwd, "getpwuid", unknown)
    elif user == "homeless":
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(CacheError, match=r"no home folder.*Set ALLCNN_ZOO_CACHE to a folder"):
        Cache()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(Terminal):
    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def show(stream: Any, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "stderr", stream)
    with contextlib.closing(Progress("file.bin", wanted=wanted)) as progress:
        progress.waiting("waiting for example.org")
        for done in (600, 0, 2048):  # starting over
            progress.show(done, 2048)
    return stream


def test_progress_is_shown_on_a_terminal_only(monkeypatch) -> None:
    bar = show(Terminal(), True, monkeypatch).getvalue()
    for words in ("file.bin: 100%", "2.00k/2.00k", "B/s", "waiting for example.org"):
        assert words in bar
    assert show(Terminal(), False, monkeypatch).getvalue() == ""
    assert show(io.StringIO(), True, monkeypatch).getvalue() == ""


def test_an_odd_standard_error_does_not_matter(monkeypatch) -> None:
    closed = Terminal()
    closed.close()
    for stream in (None, closed, Broken(), types.SimpleNamespace(write=lambda _: None)):
        show(stream, True, monkeypatch)


def test_the_comparison_with_others_says_what_was_measured() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "hub_faults.py"
    if not script.exists():
        pytest.skip("the benchmarks are not part of a source distribution")
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
