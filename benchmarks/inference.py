"""From images to labels: ours and the usual methods to run the same network on a CPU.

    python benchmarks/inference.py [--quick] [--only NAME ...] [--out FILE.json]

Each way of peers.py lives in a process of its own, all with the same number of threads, and they
take turns, several rounds, one at work at a time. In each round a way classifies batches of every
size, from uint8 images to labels and, where it can, the network alone from whitened images; then
its part of a stream that over all rounds is CIFAR-10's 10,000 test images. From the stream come
accuracy, agreement with PyTorch's float32, and the growth of memory. At the end the fastest of
ours shows how it fares with 128 to 100,000 images at once. Results are written after every round.
"""

import argparse
import functools
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import measuring
import numpy as np

SIZES = (1, 8, 32, 128, 512)  # of which a stream takes the best, if the way does not choose
FLAT_SIZES = (128, 1_000, 10_000, 100_000)
FLAT_ROUNDS = 3
STREAM = 10_000
SECONDS = 0.3  # small batches are repeated for so long
PAUSE = 0.2  # until threads that spin have gone to sleep
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy")


# In the process of one way.


class Worker:
    """The runner of this process, and the images."""

    def __init__(self, number: int, threads: int, sizes: tuple[int, ...]) -> None:
        import torch
        from peers import WAYS

        from allcnn_zoo import Preprocessor
        from allcnn_zoo.cifar import CIFAR10

        torch.set_num_threads(threads)
        self.images = np.resize(CIFAR10().test.images, (STREAM, 3, 32, 32))
        start = time.perf_counter()
        self.runner = WAYS[number].open(threads)
        whitened = Preprocessor.shipped()(torch.from_numpy(self.images[: max(sizes)])).numpy()
        self.acts = {
            f"{kind} {size}": functools.partial(act, batch[:size])
            for size in sizes
            for kind, act, batch in (
                ("labels", self.runner.classify, self.images),
                ("network", self.runner.network, whitened),
            )
            if act is not None
        }
        for act in self.acts.values():  # graphs are built and tuned at first use
            act()
        self.stream_size = STREAM if self.runner.takes_streams else 0  # not known yet
        self.setup_seconds = time.perf_counter() - start

    def choose_stream_size(self, seconds: dict[str, float]) -> None:
        """That of the batches that were fastest, once and for all."""
        if not self.stream_size:
            sizes = [int(name.split()[1]) for name in seconds if name.startswith("labels")]
            self.stream_size = min(sizes, key=lambda size: seconds[f"labels {size}"] / size)

    def classify(self, start: int, count: int) -> np.ndarray:
        return self.runner.classify(self.images[start : start + count])

    @staticmethod
    def seconds_of(act: Any) -> float:
        start = time.perf_counter()
        act()
        return time.perf_counter() - start


def start(*arguments: Any) -> None:
    global worker
    worker = Worker(*arguments)


def setup_seconds() -> float:
    return worker.setup_seconds


def time_batches() -> dict[str, float]:
    """Median seconds of each kind and size of batch."""
    found = {}
    for name, act in worker.acts.items():
        taken = [worker.seconds_of(act)]
        if taken[0] < SECONDS:  # that was the warm-up; the large ones need none
            end = time.perf_counter() + SECONDS
            taken = []
            while time.perf_counter() < end:
                taken.append(worker.seconds_of(act))
        found[name] = statistics.median(taken)
    worker.choose_stream_size(found)
    return found


def time_stream(first: int, last: int) -> dict[str, Any]:
    """Seconds for this part of the stream, its labels, and the bytes that memory grew by."""
    size = worker.stream_size
    measuring.forget_peak()
    before, start = measuring.resident("VmRSS"), time.perf_counter()
    labels = [worker.classify(begin, min(size, last - begin)) for begin in range(first, last, size)]
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "labels": np.concatenate(labels).tolist(),
        "growth": measuring.resident("VmHWM") - before,
        "batch": size,
    }


def time_many(count: int) -> dict[str, float]:
    """Images per second, and the growth of memory, for so many images in one call."""
    images = np.resize(worker.images, (count, 3, 32, 32))
    repeats = max(1, STREAM // count)
    measuring.forget_peak()
    before = measuring.resident("VmRSS")
    taken = [worker.seconds_of(lambda: worker.runner.classify(images)) for _ in range(repeats)]
    return {
        "images_per_second": count / statistics.median(taken),
        "growth": measuring.resident("VmHWM") - before,
    }


# In the process that asks.


class Turns:
    """The processes of all ways, of which one at a time is at work."""

    def __init__(self, threads: int, sizes: tuple[int, ...]) -> None:
        self.threads, self.sizes = threads, sizes
        self.pools: dict[int, ProcessPoolExecutor] = {}

    def open(self, number: int) -> float:
        """Start a way; returns the seconds that it takes to be ready."""
        pool = ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            start,
            (number, self.threads, self.sizes),
        )
        self.pools[number] = pool
        return self.ask(number, setup_seconds)

    def ask(self, number: int, act: Any, *arguments: Any) -> Any:
        result = self.pools[number].submit(act, *arguments).result()
        time.sleep(PAUSE)
        return result

    def close(self) -> None:
        for pool in self.pools.values():
            pool.shutdown()


class Harness:
    """The table, as it grows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from peers import WAYS

        self.out, self.rounds = arguments.out, arguments.rounds
        self.sizes = SIZES[:2] if arguments.quick else SIZES
        self.stream = 64 if arguments.quick else STREAM
        self.flat_sizes = FLAT_SIZES[:1] if arguments.quick else FLAT_SIZES
        self.begun = time.perf_counter()
        self.turns = Turns(arguments.threads, self.sizes)
        self.ways = {
            number: way
            for number, way in enumerate(WAYS)
            if any(name.lower() in f"{way.name} {way.precision}".lower() for name in arguments.only)
        }
        self.rows = {
            number: {
                "name": way.name,
                "precision": way.precision,
                "ours": way.ours,
                "seconds": {},
                "stream": {"seconds": [], "images": 0, "growth_bytes": 0},
            }
            for number, way in self.ways.items()
        }
        self.labels: dict[int, list[int]] = {number: [] for number in self.ways}
        self.report: dict[str, Any] = {
            **measuring.circumstances(*PACKAGES),
            "threads": arguments.threads,
            "rounds": self.rounds,
            "sizes": self.sizes,
            "rows": list(self.rows.values()),
        }

    def run(self) -> None:
        try:
            for number in list(self.ways):
                self.open(number)
            for round_ in range(self.rounds):
                for number in self.ways:
                    self.take_turn(number, round_)
                self.judge()
                self.write()
            self.show_flatness()
            self.write()
        finally:
            self.turns.close()

    def open(self, number: int) -> None:
        try:
            seconds = self.turns.open(number)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            cause = error.__cause__ or error
            self.rows[number]["error"] = f"{type(cause).__name__}: {cause}"[:300]
            del self.ways[number]
            self.say(number, "cannot be opened, see the traceback")
            return
        self.rows[number]["setup_seconds"] = seconds
        self.say(number, f"ready in {seconds:.1f} s")

    def take_turn(self, number: int, round_: int) -> None:
        row = self.rows[number]
        for name, seconds in self.turns.ask(number, time_batches).items():
            row["seconds"].setdefault(name, []).append(seconds)
        largest = f"labels {self.sizes[-1]}"
        said = f"{self.sizes[-1] / row['seconds'][largest][-1]:.0f} images/s"
        if self.ways[number].streams:
            part = (self.stream * (round_ + step) // self.rounds for step in (0, 1))
            done, stream = self.turns.ask(number, time_stream, *part), row["stream"]
            count = len(done["labels"])
            stream["seconds"].append(done["seconds"] / count)
            stream["images"] += count
            stream["batch"] = done["batch"]
            stream["growth_bytes"] = max(stream["growth_bytes"], done["growth"])
            self.labels[number] += done["labels"]
            said += f", stream {count / done['seconds']:.0f}"
        self.say(number, f"round {round_ + 1}/{self.rounds}: {said}")

    def judge(self) -> None:
        """Accuracy, and agreement with the first way, PyTorch's float32."""
        from allcnn_zoo.cifar import CIFAR10

        test = CIFAR10().test
        right = np.resize(test.labels, STREAM)
        for number, labels in self.labels.items():
            if labels:
                row, found = self.rows[number], np.array(labels)
                row["accuracy"] = float((found == right[: len(found)]).mean())
                if self.labels.get(0):
                    row["unchanged"] = float((found == np.array(self.labels[0])).mean())

    def show_flatness(self) -> None:
        ours = [number for number, way in self.ways.items() if way.ours]
        if not ours:
            return
        best = min(
            ours, key=lambda number: statistics.median(self.rows[number]["stream"]["seconds"])
        )
        turns: dict[int, list[dict[str, float]]] = {count: [] for count in self.flat_sizes}
        for _ in range(min(self.rounds, FLAT_ROUNDS)):
            for count, found in turns.items():
                found.append(self.turns.ask(best, time_many, count))
                self.say(best, f"{count} at once: {found[-1]['images_per_second']:.0f} images/s")
        sizes = {
            str(count): {
                "images_per_second": statistics.median(one["images_per_second"] for one in found),
                "growth": max(one["growth"] for one in found),
            }
            for count, found in turns.items()
        }
        self.report["flatness"] = {"precision": self.ways[best].precision, "sizes": sizes}

    def stream_seconds(self, number: int) -> float:
        return statistics.median(self.rows[number]["stream"]["seconds"])

    def write(self) -> None:
        self.report["minutes"] = (time.perf_counter() - self.begun) / 60
        measuring.write_json(self.out, self.report)

    def say(self, number: int, what: str) -> None:
        row, minutes = self.rows[number], (time.perf_counter() - self.begun) / 60
        print(f"[{minutes:5.1f} min] {row['name']}, {row['precision']}: {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small batches, once: does it work?")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="the ways in whose name one occurs"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=measuring.cores())
    parser.add_argument("--out", type=Path, default=measuring.RESULTS / "inference.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    measuring.fix_threads(arguments.threads)
    Harness(arguments).run()


if __name__ == "__main__":
    main()
