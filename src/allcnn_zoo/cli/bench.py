"""``bench``: how fast this machine trains and classifies."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from .shared import Commands, Result, file_to_write, option, table

commands = Commands()


@commands.add(
    "bench",
    "time training and classification on this machine",
    option("--batch-size N", "images at once", 128),
    option("--repeats N", "measurements of each, to average", 50),
    option(
        "--precision", "which to measure", "all", choices=("float32", "bfloat16", "int8", "all")
    ),
    option("--device DEVICE", "such as cpu, cuda or mps", "cpu"),
    option("--threads N", "of the CPU (as many as PyTorch takes)"),
    option("--out PICTURE.png", "draw the table as bars", type=file_to_write(".png")),
)
def _bench(batch_size: int, repeats: int, precision: str, out: str | None, **where: Any) -> Result:
    from ..benchmark import PRECISIONS, benchmark, draw
    from ..errors import AllCNNZooError
    from ..storage import write_atomically

    if out and not find_spec("matplotlib"):  # better now than after the measurement
        raise AllCNNZooError(
            "--out needs matplotlib, which is missing: pip install 'allcnn-zoo[plots]'"
        )
    precisions = PRECISIONS if precision == "all" else (precision,)
    report = benchmark(batch_size, repeats, precisions=precisions, **where)
    if out:
        write_atomically(out, draw(report))
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
    rows = []
    for row in report["inference"]:
        seconds, speed = row["seconds"], round(row["images_per_second"])
        rows.append((row["name"], _ms(seconds["mean"]), *_spread(seconds), speed))
    if rows:
        yield from ("", *table(("uint8 to labels, ms", "mean", *spread, "images/s"), rows))


def _spread(seconds: dict[str, float]) -> tuple[float, str]:
    """The median, and where the middle half of the repeats lies."""
    return _ms(seconds["median"]), f"{_ms(seconds['lower'])}-{_ms(seconds['upper'])}"


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
