"""``train``, ``data`` and ``whiten``: weights from images, the images, and their statistics."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine import FLOAT_PRECISIONS
from .shared import (
    Commands,
    Parser,
    Result,
    add_command,
    add_destination,
    add_group,
    folder_to_write,
    one_voice,
)

if TYPE_CHECKING:
    from ..cifar import CIFAR10


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(commands, "train", "train a network by a named recipe", _train)
    parser.option("--recipe NAME", "best, plain, cifar100, flagship or neon", "best")
    parser.option("--model NAME", "network to train, a name in `allcnn-zoo list` (allcnn_c)")
    parser.option(
        "--precision",
        "of the arithmetic; auto: bfloat16 where it is native, else float32 (the recipe's)",
        choices=FLOAT_PRECISIONS,
    )
    parser.option("--epochs N", "passes over the images (the recipe's)")
    parser.option("--data DIR", "folder that holds the data set's folder")
    parser.option("--seed SEED", "of everything that is random", 0, type=int)
    parser.option(
        "--out RUN_DIR",
        "directory of state, metrics and weights; several machines must share it",
        "run",
        type=folder_to_write,
    )
    parser.flag("--resume", "continue the run in RUN_DIR")
    parser.option("--holdout N", "training images to keep apart and measure on", 0, type=int)
    parser.flag("--test", "measure on the test images, once, at the end")
    parser.option("--processes N", "how many share the work (one a core)")

    parser = add_command(commands, "data", "check CIFAR-10 or CIFAR-100, or download it", _data)
    _add_data_options(parser)
    parser.flag("--download", "download it (170 MB) if missing")

    actions = add_group(commands, "whiten", "fit whitening statistics")
    parser = add_command(actions, "fit", "fit whitening statistics on training images", _fit)
    add_destination(parser)
    _add_data_options(parser)


def _add_data_options(parser: Parser) -> None:
    parser.option("--dataset NAME", "cifar10 or cifar100", "cifar10")
    parser.option("--data DIR", "folder that holds the data set's folder")


def _train(arguments: argparse.Namespace) -> Result | None:
    from ..training import train

    with one_voice():
        results = train(
            arguments.recipe,
            arguments.data,
            arguments.out,
            model=arguments.model,
            precision=arguments.precision,
            epochs=arguments.epochs,
            seed=arguments.seed,
            holdout=arguments.holdout,
            resume=arguments.resume,
            test=arguments.test,
            processes=arguments.processes,
        )
    if not results:  # not the first of several processes
        return None
    accuracies = [
        f"accuracy on {name.replace('_', '-')} images: {results[name]['accuracy']:.2%}"
        for name in ("held_out", "test")
        if name in results
    ]
    written = f"wrote {arguments.out}/weights.safetensors and {arguments.out}/results.json"
    return Result(results, [written, *accuracies])


def _open(arguments: argparse.Namespace, *, download: bool = False) -> "CIFAR10":
    from ..cifar import DATASETS
    from ..errors import check_name

    check_name(arguments.dataset, DATASETS, "data set")
    return DATASETS[arguments.dataset](arguments.data, download=download)


def _data(arguments: argparse.Namespace) -> Result:
    data = _open(arguments, download=arguments.download)
    counts = {"train": len(data.train), "test": len(data.test)}
    return Result(
        {"folder": str(data.folder), **counts, "classes": data.classes},
        [f"{data.folder}: {counts['train']} training and {counts['test']} test images"],
    )


def _fit(arguments: argparse.Namespace) -> Result:
    from ..preprocessing import Preprocessor

    preprocessor = Preprocessor.fit(_open(arguments).train.images)
    preprocessor.save(arguments.destination)
    size = Path(arguments.destination).stat().st_size
    fitted = preprocessor.fitted_with
    return Result(
        {"file": arguments.destination, "bytes": size, **dataclasses.asdict(fitted)},
        [f"wrote {arguments.destination} ({size:,} bytes), from {fitted.count} images"],
    )
