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

PROGRAM = """
import json, os, sys, warnings

warnings.filterwarnings("error", category=EncodingWarning, module="allcnn_zoo")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork",
             "pty.", "ftplib.", "http.", "urllib.", "smtplib.", "webbrowser.")
seen = {"read": set(), "written": set(), "forbidden": set()}

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        writes = set(mode or "") & set("wax+") or flags & WRITING
        seen["written" if writes else "read"].add(os.path.abspath(os.fsdecode(path)))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        seen["written"].add(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("os.rename", "os.link"):
        seen["written"].add(os.path.abspath(os.fsdecode(arguments[1])))
    elif event.startswith(FORBIDDEN):
        seen["forbidden"].add(f"{event} {arguments}")

sys.addaudithook(hook)

import numpy as np
import allcnn_zoo
from allcnn_zoo.cli import main

old, picture, folder, out = sys.argv[1:]
def run(*words):
    assert main([*map(str, words)]) == 0, words

run("convert", old, f"{out}/new.safetensors")
run("inspect", old)
run("inspect", f"{out}/new.safetensors")
allcnn_zoo.load("cifar10_best")
run("export", f"{out}/new.onnx", "--weights", f"{out}/new.safetensors")
run("export", f"{out}/new.pt2", "--weights", f"{out}/new.safetensors")
run("predict", picture, "--weights", f"{out}/new.safetensors", "--engine", "openvino")
run("eval", folder, "--weights", f"{out}/new.safetensors", "--engine", "torch")
print(json.dumps({key: sorted(values) for key, values in seen.items()}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the process did; its home, its output, its input, its cache."""
    for package in ENGINE_PRECISIONS:
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("audit")
    for name in ("home", "in", "out", "cache", "empty", "tmp"):
        (root / name).mkdir()
    (root / "in" / "old.p").write_bytes(python2_pickle(neon_file()))
    for name in ("cat", "ship"):
        (root / "in" / "folder" / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / f"{name}.png", root / "in" / "folder" / name)
    picture = root / "in" / "folder" / "cat" / "cat.png"
    trace = ["strace", "-f", "--seccomp-bpf", "-o", root / "trace",
             "-e", "trace=socket,connect,execve,openat,mkdir"]  # fmt: skip
    done = subprocess.run(
        [
            *(trace if shutil.which("strace") else ()),
            *(sys.executable, "-X", "warn_default_encoding", "-W", "ignore", "-c", PROGRAM),
            *(root / "in" / "old.p", picture, root / "in" / "folder", root / "out"),
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
    return root, json.loads(done.stdout.splitlines()[-1]), native


def outside(paths: list[str], *allowed: Path | str) -> list[str]:
    return [path for path in paths if not any(Path(path).is_relative_to(each) for each in allowed)]


def test_nothing_is_started_and_no_connection_is_opened(seen) -> None:
    _, found, native = seen
    # To import a CUDA build of PyTorch asks ldconfig for libraries.
    assert [event for event in found["forbidden"] if "'/sbin/ldconfig'" not in event] == []
    reached = re.findall(r"\b(?:socket|connect)\(.*", native)
    assert [call for call in reached if "AF_UNIX" not in call] == []  # the C library asks nscd
    assert len(re.findall(r'\bexecve\("(?!/sbin/ldconfig").*= 0', native)) <= 1  # Python itself


def test_only_the_output_and_the_cache_are_written(seen) -> None:
    root, found, native = seen
    written = re.findall(r'openat\(AT_FDCWD, "([^"]+)", [^)]*O_(?:WRONLY|RDWR|CREAT)', native)
    made = re.findall(r'mkdir\("([^"]+)", \d+\) += 0', native)
    allowed = (root / "out", root / "cache", root / "tmp", "/dev")
    assert outside([*found["written"], *written, *made], *allowed) == []
    assert list((root / "home").iterdir()) == list((root / "empty").iterdir()) == []


def test_only_the_input_and_what_is_installed_are_read(seen) -> None:
    root, found, _ = seen
    installed = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), str(ROOT / "src")}
    system = ("/proc", "/sys", "/dev", "/etc", "/usr/lib", "/usr/share", "/lib")
    ours = (root / "in", root / "out", root / "cache", root / "tmp")
    assert outside(found["read"], *ours, *installed, *system) == []
