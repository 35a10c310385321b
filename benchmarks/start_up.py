"""How long it takes until something can be done, each in fresh processes; medians.

    python benchmarks/start_up.py [--runs 9] [--out FILE.json]

What Python itself takes to start is measured too, and is not taken off the commands' times. The
times of single steps are taken inside a process, after `import torch` where it says so. The cache
is a new one, in which neon's published weights lie as the hub would have put them there (a file of
that shape, as the real one may not be at hand).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring

from allcnn_zoo import AllCNN, Architecture

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.neon.writer import allcnn_file, python2_pickle

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "allcnn-zoo --help": [sys.executable, "-m", "allcnn_zoo", "--help"],
    "allcnn-zoo list": [sys.executable, "-m", "allcnn_zoo", "list"],
    "allcnn-zoo cache ls": [sys.executable, "-m", "allcnn_zoo", "cache", "ls"],
}
#: Milliseconds of a statement in a fresh process, after others.
STEPS = {
    "import allcnn_zoo": ("", "import allcnn_zoo"),
    "import torch": ("", "import torch"),
    "allcnn_c(pretrained=True)": (
        "import torch, allcnn_zoo",
        "allcnn_zoo.allcnn_c(pretrained=True)",
    ),
    "allcnn_c(weights='cifar10_best')": (
        "import torch, allcnn_zoo",
        "allcnn_zoo.allcnn_c(weights='cifar10_best')",
    ),
    "first model.preprocess": (
        "import torch, allcnn_zoo; model = allcnn_zoo.allcnn_c()",
        "model.preprocess",
    ),
}
TIMED = """
import sys, time
{before}
start = time.perf_counter()
{act}
taken = time.perf_counter() - start
import json
print(json.dumps([taken, "torch" in sys.modules]))
"""


def time_command(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_step(before: str, act: str) -> tuple[float, bool]:
    code = TIMED.format(before=before, act=act)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, has_torch = json.loads(done.stdout)
    return seconds, has_torch


def fill_cache(folder: Path) -> None:
    """A mirror with a file of the published size, and a cache that has taken it from there."""
    published = folder / "mirror" / "cifar10_allcnn" / "cifar10_allcnn_e350.p"
    published.parent.mkdir(parents=True)
    weights = AllCNN(Architecture(num_classes=16)).state_dict()
    published.write_bytes(python2_pickle(allcnn_file(weights)))
    os.environ["ALLCNN_ZOO_MIRRORS"] = str(folder / "mirror")
    os.environ["ALLCNN_ZOO_CACHE"] = str(folder / "cache")
    download = [sys.executable, "-m", "allcnn_zoo", "download", "neon_e350"]
    subprocess.run(download, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, default=measuring.RESULTS / "start_up.json")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled already
    seconds: dict[str, list[float]] = {name: [] for name in (*COMMANDS, *STEPS)}
    report = {**measuring.circumstances("torch"), "runs": arguments.runs}
    with tempfile.TemporaryDirectory() as folder:
        fill_cache(Path(folder))
        for turn in range(arguments.runs + 1):  # the first fills the system's caches
            taken = {name: time_command(words) for name, words in COMMANDS.items()}
            for name, (before, act) in STEPS.items():
                taken[name], has_torch = time_step(before, act)
                if name == "import allcnn_zoo":
                    report["import_brings_torch"] = has_torch
            for name, value in taken.items():
                if turn:
                    seconds[name].append(value)
    report["seconds"] = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in report["seconds"].items():
        print(f"{1e3 * value:8.0f} ms  {name}")
    measuring.write_json(arguments.out, report)


if __name__ == "__main__":
    main()
