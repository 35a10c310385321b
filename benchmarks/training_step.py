"""Our training step compared with plain PyTorch's, and what the data costs.

    python benchmarks/training_step.py [--quick] [--out FILE.json]

Ours runs as `allcnn-zoo train` runs it: one process of one thread per core, bfloat16. Theirs is
PyTorch eager, NCHW, float32, SGD and cross-entropy on the plain network, with all threads in one
process. They take turns, several rounds, at batches of 128 to 1,024. The data's part (shifts,
flips, whitening, crops) is timed on real training images in a process like those of the training.
"""

import argparse
import dataclasses
import importlib
import statistics
import time
from pathlib import Path
from typing import Any

import measuring
import torch

from allcnn_zoo import Preprocessor
from allcnn_zoo.cifar import CIFAR10
from allcnn_zoo.distributed import World, launch
from allcnn_zoo.training import augmentation as views
from allcnn_zoo.training.benchmark import (
    PHASES,
    StepJob,
    count_flop,
    matmul_flops,
    step_recipe,
    time_step,
)
from allcnn_zoo.training.recipes import BEST

SIZES = (128, 256, 512, 1024)
CPU = torch.device("cpu")


def jobs(sizes: tuple[int, ...], repeats: int, threads: int) -> list[StepJob]:
    """Each way at each size; larger batches are repeated less often."""
    found = []
    for size in sizes:
        count = max(2, repeats * sizes[0] // size)
        plain = dataclasses.replace(BEST, batch_size=size, ghost_batch=size, precision="float32")
        theirs = StepJob("PyTorch eager", plain, count, CPU, torch.contiguous_format)
        recipe = step_recipe(BEST, size, threads)
        ours = StepJob("allcnn_zoo", recipe, count, CPU, processes=threads)
        found += [theirs, ours] if size == sizes[0] else [ours]
    return found


def time_data(world: World, job: StepJob) -> float:
    """Median seconds that this process's share of a batch takes to become network input."""
    recipe = job.recipe
    images = torch.from_numpy(CIFAR10().train.images[: recipe.batch_size])
    plan = views.plan_epoch(recipe, recipe.batch_size, 0, 0)
    whiten = views.Whitening(Preprocessor.shipped().to(world.device), torch.bfloat16)
    parts = plan.batches[0].reshape(-1, recipe.ghost_batch)[world.rank :: world.size]
    taken = []
    for _ in range(job.repeats + 1):
        start = time.perf_counter()
        for chosen in parts:
            whiten(views.augment(images[chosen], plan.shifts[chosen], plan.flipped[chosen]))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small batch: does it work?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=8, help="at the smallest batch, in a round")
    parser.add_argument("--threads", type=int, default=measuring.cores())
    parser.add_argument("--out", type=Path, default=measuring.RESULTS / "training_step.json")
    arguments = parser.parse_args()
    sizes, rounds = ((2,), 1) if arguments.quick else (SIZES, arguments.rounds)
    torch.set_num_threads(arguments.threads)
    found = jobs(sizes, arguments.repeats, arguments.threads)

    flop = count_flop(BEST.architecture)
    rows: list[dict[str, Any]] = [
        {
            "name": job.name,
            "precision": job.recipe.precision,
            "batch": job.recipe.batch_size,
            "seconds": {phase: [] for phase in PHASES},
        }
        for job in found
    ]
    report = {
        **measuring.circumstances("torch"),
        "threads": arguments.threads,
        "rounds": rounds,
        "flop": flop,
        "matmul_flops": {
            name: max(matmul_flops(getattr(torch, name), CPU) for _ in range(3))
            for name in ("float32", "bfloat16")
        },
        "rows": rows,
        "data_seconds": [],
    }
    ours = found[1]
    for round_ in range(rounds):
        for job, row in zip(found, rows, strict=True):
            for phase, seconds in time_step(job).items():
                row["seconds"][phase] += seconds
            median = statistics.median(row["seconds"]["iteration"])
            speed = job.recipe.batch_size * flop["iteration"] / median / 1e9
            print(
                f"round {round_ + 1}/{rounds}  {job.name}, batch {job.recipe.batch_size}:"
                f" {1e3 * median:.0f} ms, {speed:.0f} GFLOP/s",
                flush=True,
            )
        # By the name of the module, as the processes know nothing of the script.
        work = importlib.import_module("training_step").time_data
        report["data_seconds"].append(launch(work, ours, ours.processes))
        print(f"data for batch {ours.recipe.batch_size}: {1e3 * report['data_seconds'][-1]:.1f} ms")
        measuring.write_json(arguments.out, report)


if __name__ == "__main__":
    main()
