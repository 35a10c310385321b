"""``bench``: how fast this machine trains and classifies."""

import argparse
from typing import Any

from .shared import (
    Commands,
    add_command,
    add_json_option,
    file_to_write,
    positive_int,
    print_json,
    print_table,
    say,
)


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "bench", "time training and classification on this machine", _bench
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=128, metavar="N", help="images at once (128)"
    )
    parser.add_argument(
        "--repeats", type=positive_int, default=50, metavar="N", help="of each, to average (50)"
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "int8", "all"), default="all", help="(all)"
    )
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda or mps (cpu)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="on a CPU (as many as PyTorch takes)"
    )
    parser.add_argument(
        "--out", type=file_to_write(".png"), metavar="PICTURE.png", help="draw the table as bars"
    )
    add_json_option(parser)


def _bench(arguments: argparse.Namespace) -> None:
    from ..benchmark import PRECISIONS, benchmark, draw
    from ..errors import AllCNNZooError
    from ..storage import write_atomically
    from ..training.curve import can_draw

    if arguments.out and not can_draw():  # better now than after the measurement
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
    if arguments.json:
        print_json(report)
        return
    _print_report(report)


def _print_report(report: dict[str, Any]) -> None:
    """The facts, then a table each for training and classification."""
    machine, versions = report["machine"], report["versions"]
    peaks = (f"{name} {flops / 1e9:.0f}" for name, flops in report["matmul_flops"].items())
    say(f"machine     {machine['cpu']}, {machine['cores']} cores; {report['device']}")
    say(f"software    torch {versions['torch']}, {report['threads']} threads")
    say(f"network     {report['network']['name']}, {report['multiply_adds']:,} multiply-adds")
    say(f"matmul      {', '.join(peaks)} GFLOP/s")
    say(f"batch       {report['batch_size']}, mean of {report['repeats']}\n")
    header = ("training, ms", *_PHASES, *_SPREAD, "GFLOP/s", "% of matmul")
    if report["training"]:
        print_table(header, [_training_cells(row) for row in report["training"]])
    if report["published"]:
        say()
        published = report["published"].items()
        print_table(
            ("in 2015, ms", *_PHASES),
            [(name, *(row[phase] for phase in _PHASES)) for name, row in published],
        )
    if report["inference"]:
        say()
        rows = [_inference_cells(row) for row in report["inference"]]
        print_table(("uint8 to labels, ms", "mean", *_SPREAD, "images/s"), rows)


_PHASES = ("forward", "backward", "iteration")
_SPREAD = ("median", "middle half")


def _training_cells(row: dict[str, Any]) -> tuple[object, ...]:
    phases = (_ms(row["seconds"][phase]["mean"]) for phase in _PHASES)
    speed = round(row["flops"]["iteration"] / 1e9)
    share = round(100 * row["of_matmul"]["iteration"])
    return (row["name"], *phases, *_spread(row["seconds"]["iteration"]), speed, share)


def _inference_cells(row: dict[str, Any]) -> tuple[object, ...]:
    seconds = row["seconds"]
    return row["name"], _ms(seconds["mean"]), *_spread(seconds), round(row["images_per_second"])


def _spread(seconds: dict[str, float]) -> tuple[float, str]:
    """The median, and where the middle half of the repeats lies."""
    return _ms(seconds["median"]), f"{_ms(seconds['lower'])}-{_ms(seconds['upper'])}"


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
