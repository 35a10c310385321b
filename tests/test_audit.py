"""What the library opens, starts and connects to: its input, its output, the cache, and no more.

One process does everything there is, under an audit hook, which sees what Python does, and under
strace, where it is installed, which sees what native code does. Files of text name their encoding.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from allcnn_zoo.engines import ENGINE_PRECISIONS

from .conftest import EXAMPLES, ROOT
from .neon.writer import neon_file, python2_pickle

HOOK = """
import json, os, sys, warnings

warnings.filterwarnings("error", category=EncodingWarning, module="allcnn_zoo")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn",
             "os.fork", "pty.", "ftplib.", "http.", "urllib.", "smtplib.", "webbrowser.")
seen = {"read": set(), "written": set(), "forbidden": set()}

def place(path, folder=-1):
    base = os.getcwd() if folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
    return os.path.normpath(os.path.join(base, os.fsdecode(path)))

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        writes = set(mode or "") & set("wax+") or flags & WRITING
        seen["written" if writes else "read"].add(place(path))
    elif event in ("os.mkdir", "os.remove", "os.rmdir"):
        seen["written"].add(place(arguments[0], arguments[-1]))
    elif event == "os.truncate" and not isinstance(arguments[0], int):
        seen["written"].add(place(arguments[0]))
    elif event in ("os.rename", "os.link", "os.symlink"):
        seen["written"].add(place(arguments[1], arguments[-1]))
    elif event.startswith(FORBIDDEN):
        seen["forbidden"].add(f"{event} {arguments}")

sys.addaudithook(hook)
"""

PROGRAM = """
import numpy as np
import allcnn_zoo
from allcnn_zoo.cli import main
from allcnn_zoo.engines import ENGINE_PRECISIONS, ENGINES

old, picture, folder, out = sys.argv[1:]
def run(*words):
    assert main([*map(str, words)]) == 0, words

new = f"{out}/new.safetensors"
run("convert", old, new)
run("inspect", old)
run("inspect", new)
for suffix in ("onnx", "pt2"):
    run("export", f"{out}/new.{suffix}", "--weights", new)
for engine in ENGINES[1:]:
    run("predict", picture, "--weights", new, "--engine", engine)
    run("eval", folder, "--weights", new, "--engine", engine)
model, pictures = allcnn_zoo.load(new), np.zeros((3, 3, 32, 32), np.uint8)
allcnn_zoo.load("cifar10_best"), allcnn_zoo.load(old)
for engine, precisions in ENGINE_PRECISIONS.items():
    for precision in precisions:
        more = {"calibration": pictures} if precision == "int8" else {}
        classifier = allcnn_zoo.Classifier(model, engine=engine, precision=precision, **more)
        assert classifier.engine == engine and classifier.precision == precision
        classifier(picture)
        classifier.predict_proba(pictures)
"""

REPORT = """
print(json.dumps({key: sorted(values) for key, values in seen.items()}))
"""


def observe(root: Path, program: str, *words: object) -> tuple[dict[str, list[str]], str]:
    """What a process did, as Python's audit events and strace tell it."""
    for name in ("home", "in", "out", "cache", "empty", "tmp"):
        (root / name).mkdir(exist_ok=True)
    trace = ["strace", "-f", "--seccomp-bpf", "-o", root / "trace",
             "-e", "trace=socket,connect,execve,openat,mkdir"]  # fmt: skip
    done = subprocess.run(
        [
            *(trace if shutil.which("strace") else ()),
            *(sys.executable, "-X", "warn_default_encoding", "-W", "ignore"),
            *("-c", HOOK + program + REPORT, *words),
        ],
        env={
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "ALLCNN_ZOO_CACHE": str(root / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=root / "empty",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trace_file = root / "trace"
    native = trace_file.read_text(encoding="utf-8") if trace_file.exists() else ""
    return json.loads(done.stdout.splitlines()[-1]), native


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What one process did that does everything."""
    for package in ENGINE_PRECISIONS:
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("audit")
    for name in ("cat", "ship"):
        (root / "in" / "folder" / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / f"{name}.png", root / "in" / "folder" / name)
    old, picture = root / "in" / "old.p", root / "in" / "folder" / "cat" / "cat.png"
    old.write_bytes(python2_pickle(neon_file()))
    return root, *observe(root, PROGRAM, old, picture, root / "in" / "folder", root / "out")


def outside(paths: list[str], *allowed: Path | str) -> list[str]:
    return [path for path in paths if not any(Path(path).is_relative_to(each) for each in allowed)]


def started_or_connected(found: dict[str, list[str]], native: str) -> list[str]:
    # To import a CUDA build of PyTorch asks ldconfig for libraries, and the C library asks nscd.
    events = [event for event in found["forbidden"] if "'/sbin/ldconfig'" not in event]
    calls = [c for c in re.findall(r"\b(?:socket|connect)\(.*", native) if "AF_UNIX" not in c]
    programs = re.findall(r'\bexecve\("(?!/sbin/ldconfig").*= 0', native)
    return [*events, *calls, *programs[1:]]  # the first is Python itself


def written_elsewhere(root: Path, found: dict[str, list[str]], native: str) -> list[str]:
    opened = re.findall(r'openat\(AT_FDCWD, "([^"]+)", [^)]*O_(?:WRONLY|RDWR|CREAT)', native)
    made = re.findall(r'mkdir\("([^"]+)", \d+\) += 0', native)
    allowed = (root / "out", root / "cache", root / "tmp", "/dev")
    return outside([*found["written"], *opened, *made], *allowed)


def read_elsewhere(root: Path, found: dict[str, list[str]], native: str) -> list[str]:
    opened = re.findall(r'openat\(AT_FDCWD, "([^"]+)", O_RDONLY(?!.*O_DIRECTORY).* = \d', native)
    installed = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), str(ROOT / "src")}
    system = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64")
    ours = (root / "in", root / "out", root / "cache", root / "tmp", root / "empty")
    return outside([*found["read"], *opened], *ours, *installed, *system)


def test_nothing_is_started_and_no_connection_is_opened(seen) -> None:
    assert started_or_connected(*seen[1:]) == []


def test_only_the_output_and_the_cache_are_written(seen) -> None:
    assert written_elsewhere(*seen) == []
    assert list((seen[0] / "home").iterdir()) == list((seen[0] / "empty").iterdir()) == []


def test_only_the_input_and_what_is_installed_are_read(seen) -> None:
    assert read_elsewhere(*seen) == []


MISDEEDS = """
import socket, subprocess
home = os.environ["HOME"]
open(f"{home}/written", "w").close()
open(f"{home}/written").close()
subprocess.run(["true"])
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
"""


@pytest.mark.parametrize("by", ["audit events", "strace"])
def test_what_must_not_be_would_be_noticed(tmp_path, by: str) -> None:
    found, native = observe(tmp_path, MISDEEDS)
    if by == "strace":
        if not native:
            pytest.skip("strace is not installed")
        found = {key: [] for key in found}
    else:
        native = ""
    told = " ".join(started_or_connected(found, native))
    assert re.search(r"AF_INET|<AddressFamily.AF_INET|socket\.__new__", told)
    assert re.search(r"execve|subprocess\.Popen", told)
    file = str(tmp_path / "home" / "written")
    assert written_elsewhere(tmp_path, found, native) == [file]
    assert read_elsewhere(tmp_path, found, native) == [file]
