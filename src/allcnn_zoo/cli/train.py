"""``train``, ``data`` and ``whiten``: weights from images, the images, and their statistics."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine import FLOAT_PRECISIONS
from .shared import Commands, Result, destination, flag, folder_to_write, one_voice, option

if TYPE_CHECKING:
    from ..cifar import CIFAR10

commands = Commands()
_DATA = option("--data DIR", "folder that holds the data set's folder")
_DATASET = (option("--dataset NAME", "cifar10 or cifar100", "cifar10"), _DATA)


@commands.add(
    "train",
    "train a network by a named recipe",
    option("--recipe NAME", "best, plain, cifar100, flagship or neon", "best"),
    option("--model NAME", "network to train, a name in `allcnn-zoo list` (allcnn_c)"),
    option(
        "--precision",
        "of the arithmetic; auto: bfloat16 where it is native, else float32 (the recipe's)",
        choices=FLOAT_PRECISIONS,
    ),
    option("--epochs N", "passes over the images (the recipe's)"),
    _DATA,
    option("--seed SEED", "of everything that is random", 0, type=int),
    option(
        "--out RUN_DIR",
        "directory of state, metrics and weights; several machines must share it",
        "run",
        type=folder_to_write,
    ),
    flag("--resume", "continue the run in RUN_DIR"),
    option("--holdout N", "training images to keep apart and measure on", 0, type=int),
    flag("--test", "measure on the test images, once, at the end"),
    option("--processes N", "how many share the work (one a core)"),
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


@commands.add(
    "whiten fit",
    "fit whitening statistics on training images",
    destination(".safetensors"),
    *_DATASET,
)
def _fit(destination: str, **options: Any) -> Result:
    from ..preprocessing import Preprocessor

    preprocessor = Preprocessor.fit(_open(**options).train.images)
    preprocessor.save(destination)
    size, fitted = Path(destination).stat().st_size, preprocessor.fitted_with
    return Result(
        {"file": destination, "bytes": size, **dataclasses.asdict(fitted)},
        [f"wrote {destination} ({size:,} bytes), from {fitted.count} images"],
    )
