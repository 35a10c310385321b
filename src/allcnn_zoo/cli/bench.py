"""``bench``: how fast this machine trains and classifies."""

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from .shared import Commands, Result, add_command, file_to_write, table


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "bench", "time training and classification on this machine", _bench
    )
    parser.option("--batch-size N", "images at once", 128)
    parser.option("--repeats N", "measurements of each, to average", 50)
    precisions = ("float32", "bfloat16", "int8", "all")
    parser.option("--precision", "which to measure", "all", choices=precisions)
    parser.option("--device DEVICE", "such as cpu, cuda or mps", "cpu")
    parser.option("--threads N", "of the CPU (as many as PyTorch takes)")
    parser.option("--out PICTURE.png", "draw the table as bars", type=file_to_write(".png"))


def _bench(arguments: argparse.Namespace) -> Result:
    from ..benchmark import PRECISIONS, benchmark, draw
    from ..errors import AllCNNZooError
    from ..storage import write_atomically

    if arguments.out and not find_spec("matplotlib"):  # better now than after the measurement
        raise AllCNNZooError(
            "--out needs matplotlib, which is missing: pip install 'allcnn-zoo[plots]'"
        )
    report = benchmark(
        arguments.batch_size,
        arguments.repeats,
        precisions=PRECISIONS if arguments.precision == "all" else (arguments.precision,),
        device=arguments.device,
        threads=arguments.threads,
    )
    if arguments.out:
        write_atomically(arguments.out, draw(report))
    return Result(report, _lines(report))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """The facts, then a table each for training and classification."""
    machine, versions = report["machine"], report["versions"]
    peaks = (f"{name} {flops / 1e9:.0f}" for name, flops in report["matmul_flops"].items())
    yield f"machine     {machine['cpu']}, {machine['cores']} cores; {report['device']}"
    yield f"software    torch {versions['torch']}, {report['threads']} threads"
    yield f"network     {report['network']['name']}, {report['multiply_adds']:,} multiply-adds"
    yield f"matmul      {', '.join(peaks)} GFLOP/s"
    yield f"batch       {report['batch_size']}, mean of {report['repeats']}"
    phases, spread = ("forward", "backward", "iteration"), ("median", "middle half")
    rows: list[tuple[object, ...]] = []
    for row in report["training"]:
        means = (_ms(row["seconds"][phase]["mean"]) for phase in phases)
        speed = round(row["flops"]["iteration"] / 1e9)
        share = round(100 * row["of_matmul"]["iteration"])
        rows.append((row["name"], *means, *_spread(row["seconds"]["iteration"]), speed, share))
    if rows:
        header = ("training, ms", *phases, *spread, "GFLOP/s", "% of matmul")
        yield from ("", *table(header, rows))
    if report["published"]:
        rows = [(name, *row.values()) for name, row in report["published"].items()]
        yield from ("", *table(("in 2015, ms", *phases), rows))
    if report["inference"]:
        rows = [
            (
                row["name"],
                _ms(row["seconds"]["mean"]),
                *_spread(row["seconds"]),
                round(row["images_per_second"]),
            )
            for row in report["inference"]
        ]
        yield from ("", *table(("uint8 to labels, ms", "mean", *spread, "images/s"), rows))


def _spread(seconds: dict[str, float]) -> tuple[float, str]:
    """The median, and where the middle half of the repeats lies."""
    return _ms(seconds["median"]), f"{_ms(seconds['lower'])}-{_ms(seconds['upper'])}"


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
