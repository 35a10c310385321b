"""What a load from the cache costs, compared with the least that any library must do.

    python benchmarks/cached_load.py WEIGHTS.p      # neon's file, served from a local mirror

Ours: `allcnn_c(weights="neon_e350")` from a filled cache, both digests' checks included. Theirs:
`safetensors.torch.load_file` and `load_state_dict` into a network that is already built, and the
same with building the network. In turn in one process after a warm-up; medians.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

import allcnn_zoo
from allcnn_zoo import zoo
from allcnn_zoo.weights import NEON_E350

RESULT = Path(__file__).parent / "results" / "cached_load.json"


def seconds(act: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        mirror = Path(folder) / "mirror" / str(NEON_E350.key)
        mirror.parent.mkdir(parents=True)
        shutil.copy(arguments.weights, mirror)
        os.environ["ALLCNN_ZOO_CACHE"] = str(Path(folder) / "cache")
        os.environ["ALLCNN_ZOO_MIRRORS"] = str(Path(folder) / "mirror")
        path = zoo.download("neon_e350", progress=False)
        built = allcnn_zoo.AllCNN()

        ways: dict[str, Callable[[], object]] = {
            "allcnn_zoo, digest checked": lambda: allcnn_zoo.allcnn_c(weights="neon_e350"),
            "load_file + load_state_dict": lambda: built.load_state_dict(load_file(path)),
            "AllCNN() + load_file + load_state_dict": lambda: allcnn_zoo.AllCNN().load_state_dict(
                load_file(path)
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(arguments.rounds + 3):
            for name, act in ways.items():
                taken = seconds(act)
                if turn >= 3:
                    times[name].append(taken)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    ours, *theirs = medians
    report = {
        "milliseconds": medians,
        "ratio": {name: medians[ours] / medians[name] for name in theirs},
        "rounds": arguments.rounds,
    }
    for name, milliseconds in medians.items():
        print(f"{milliseconds:8.2f} ms  {name}")
    for name, ratio in report["ratio"].items():
        print(f"{ratio:8.2f} x   {name}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
