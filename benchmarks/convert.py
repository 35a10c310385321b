"""What safety costs: converting a neon file, against `pickle.load` and `safetensors` by hand.

    python benchmarks/convert.py [FILE.p] --json benchmarks/results/convert.json

Without a file, one of the published size is written first, with optimizer states. Both roads end
with the parameters in a safetensors file on the disk; ours also checks every layer and value, folds
dropout, records digests, and never executes anything. Times are medians of runs that take turns.
Memory is what one conversion adds in a process of its own: at its peak, as tracemalloc sees it
(which numpy reports to), and as Linux counts it.
"""

import argparse
import hashlib
import json
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from measuring import forget_peak, resident

from allcnn_zoo import checkpoint
from allcnn_zoo.from_neon import candidates

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.neon.writer import neon_file, python2_pickle

RUNS = 21


def convert(source: Path, destination: Path) -> None:
    """As `convert_neon`, without running the weights on images, which is no matter of safety."""
    checkpoint.save(destination, *candidates(source)[0])


def by_hand(source: Path, destination: Path) -> None:
    with source.open("rb") as file:
        tree = pickle.load(file, encoding="latin1")
    layers = tree["model"]["config"]["layers"]
    arrays = {
        f"{index}.{name}": array
        for index, layer in enumerate(layers)
        for name, array in layer.get("params", {}).items()
    }
    safetensors.numpy.save_file(arrays, destination)


def digest_only(source: Path, _: Path) -> None:
    """What conversion cannot do without: the digest that goes on record."""
    hashlib.sha256(source.read_bytes()).hexdigest()


ROADS = {"convert_neon": convert, "pickle_and_safetensors": by_hand}


def seconds(source: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Median time of each road, on the wall's clock and the processor's, after a first run."""
    roads = {**ROADS, "read_and_digest_only": digest_only}
    wall: dict[str, list[float]] = {name: [] for name in roads}
    processor: dict[str, list[float]] = {name: [] for name in roads}
    for _ in range(RUNS + 1):
        for name, road in roads.items():
            starts = time.perf_counter(), time.process_time()
            road(source, folder / "out.safetensors")
            wall[name].append(time.perf_counter() - starts[0])
            processor[name].append(time.process_time() - starts[1])
    return {
        clock: {name: statistics.median(each[1:]) for name, each in times.items()}
        for clock, times in (("wall", wall), ("processor", processor))
    }


def measure_memory(road: str, tool: str, source: Path) -> None:
    """In a process of its own: print the bytes that one conversion adds at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.p"
        small.write_bytes(python2_pickle(neon_file(widths=(2, 3))))
        ROADS[road](small, Path(folder) / "out.safetensors")  # imports and first-time set-up
        if tool == "tracemalloc":
            tracemalloc.start()
            ROADS[road](source, Path(folder) / "out.safetensors")
            print(tracemalloc.get_traced_memory()[1])
        else:
            before = resident("VmRSS")
            forget_peak()  # that of the imports
            ROADS[road](source, Path(folder) / "out.safetensors")
            print(resident("VmHWM") - before)


def memory(source: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for tool in ("tracemalloc", "resident"):
        found[tool] = {}
        for road in ROADS:
            words = [sys.executable, __file__, str(source), "--memory", road, tool]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found[tool][road] = int(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="an All-CNN-C file of neon")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # numpy's, about Python 2's flags
    if arguments.memory:
        measure_memory(*arguments.memory, arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.file or Path(folder) / "full.p"
        if arguments.file is None:
            source.write_bytes(python2_pickle(neon_file(widths=(96, 192))))
        size = source.stat().st_size
        times, peaks = seconds(source, Path(folder)), memory(source)
    result = {
        "file_bytes": size,
        "runs": RUNS,
        "seconds": times,
        "time_ratio": {
            clock: each["convert_neon"] / each["pickle_and_safetensors"]
            for clock, each in times.items()
        },
        "peak_bytes": peaks,
        "peak_to_file": {tool: each["convert_neon"] / size for tool, each in peaks.items()},
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
