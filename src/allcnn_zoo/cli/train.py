"""Training and speed: ``train``, ``data``, ``whiten fit`` and ``bench``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine import FLOAT_PRECISIONS
from .shared import (
    Commands,
    Result,
    destination,
    fields_of,
    file_to_write,
    flag,
    folder_to_write,
    one_voice,
    option,
    table,
)

if TYPE_CHECKING:
    from ..cifar import CIFAR10

commands = Commands()
_DATA = option("--data DIR", "folder that holds cifar-10-batches-py or cifar-100-python")
_DATASET = (option("--dataset NAME", "cifar10 or cifar100", "cifar10"), _DATA)


@commands.add(
    "train",
    "train a network by a named recipe",
    option("--recipe NAME", "best, plain, cifar100 or neon", "best"),
    option("--model NAME", "network to train, a name in `allcnn-zoo list` (allcnn_c)"),
    option(
        "--precision",
        "arithmetic; auto: bfloat16 if the processor has it, else float32 (the recipe's)",
        choices=FLOAT_PRECISIONS,
    ),
    option("--epochs N", "number of epochs (the recipe's)"),
    _DATA,
    option("--seed SEED", "random seed", 0, type=int),
    option(
        "--out RUN_DIR",
        "directory for state, metrics and weights; machines that train together share it",
        "run",
        type=folder_to_write,
    ),
    flag("--resume", "continue the run in RUN_DIR"),
    option("--holdout N", "training images to hold out and measure on", 0, type=int),
    flag("--test", "measure on the test images, once, at the end"),
    option("--processes N", "number of processes (one per core)"),
)
@one_voice()
def _train(out: str, **options: Any) -> Result | None:
    from ..training import train

    results = train(out=out, **options)
    if not results:  # not the first of several processes
        return None
    accuracies = [
        f"accuracy on {name.replace('_', '-')} images: {results[name]['accuracy']:.2%}"
        for name in ("held_out", "test")
        if name in results
    ]
    return Result(results, [f"wrote {out}/weights.safetensors and {out}/results.json", *accuracies])


def _open(dataset: str, data: str | None, *, download: bool = False) -> "CIFAR10":
    from ..cifar import DATASETS
    from ..errors import check_name

    check_name(dataset, DATASETS, "data set")
    return DATASETS[dataset](data, download=download)


@commands.add(
    "data",
    "check CIFAR-10 or CIFAR-100, or download it",
    *_DATASET,
    flag("--download", "download it (170 MB) if missing"),
)
def _data(**options: Any) -> Result:
    data = _open(**options)
    counts = {"train": len(data.train), "test": len(data.test)}
    return Result(
        {"folder": str(data.folder), **counts, "classes": data.classes},
        [f"{data.folder}: {counts['train']} training and {counts['test']} test images"],
    )


@commands.add("whiten fit", "fit whitening statistics on training images", destination(), *_DATASET)
def _fit(destination: str, **options: Any) -> Result:
    from ..preprocessing import Preprocessor

    preprocessor = Preprocessor.fit(_open(**options).train.images)
    preprocessor.save(destination)
    size, fitted = Path(destination).stat().st_size, preprocessor.fitted_with
    return Result(
        {"file": destination, "bytes": size, **fields_of(fitted)},
        [f"wrote {destination} ({size:,} bytes), from {fitted.count} images"],
    )


@commands.add(
    "bench",
    "time training and classification on this machine",
    option("--batch-size N", "images per batch", 128),
    option("--repeats N", "measurements to average", 50),
    option("--precision", "what to measure", "all", choices=("float32", "bfloat16", "int8", "all")),
    option("--device DEVICE", "where to run: cpu, cuda or mps", "cpu"),
    option("--threads N", "CPU threads (as many as PyTorch uses)"),
    option("--out PICTURE.png", "draw the table as bars", type=file_to_write(".png")),
)
def _bench(batch_size: int, repeats: int, precision: str, out: str | None, **where: Any) -> Result:
    from ..errors import AllCNNZooError
    from ..storage import write_atomically
    from ..training.benchmark import PRECISIONS, benchmark, draw

    if out:
        try:
            import matplotlib.figure  # noqa: F401  # better now than after the measurement
        except ImportError:
            raise AllCNNZooError(
                "--out needs matplotlib, which is missing: pip install 'allcnn-zoo[plots]'"
            ) from None
    precisions = PRECISIONS if precision == "all" else (precision,)
    report = benchmark(batch_size, repeats, precisions=precisions, **where)
    if out:
        write_atomically(out, draw(report))
    return Result(report, _bench_lines(report))


def _bench_lines(report: dict[str, Any]) -> Iterator[str]:
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
    """The median, and the range of the middle half of the repeats."""
    return _ms(seconds["median"]), f"{_ms(seconds['lower'])}-{_ms(seconds['upper'])}"


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 1)
