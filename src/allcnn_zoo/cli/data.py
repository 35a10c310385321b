"""``data`` and ``whiten``: the images, and the statistics that whiten them."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import Commands, Result, add_command, add_group, file_to_write

if TYPE_CHECKING:
    from ..cifar import CIFAR10


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(commands, "data", "check CIFAR-10 or CIFAR-100, or download it", _data)
    _add_data_options(parser)
    parser.add_argument("--download", action="store_true", help="download it (170 MB) if missing")

    actions = add_group(commands, "whiten", "fit whitening statistics")
    parser = add_command(actions, "fit", "fit whitening statistics on training images", _fit)
    parser.add_argument(
        "out",
        metavar="OUT",
        type=file_to_write(),
        help="the .safetensors file to write (19 MB)",
    )
    _add_data_options(parser)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", default="cifar10", metavar="NAME", help="cifar10 or cifar100 (cifar10)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder that holds the data set's folder")


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
    preprocessor.save(arguments.out)
    size = Path(arguments.out).stat().st_size
    fitted = preprocessor.fitted_with
    return Result(
        {"file": arguments.out, "bytes": size, **dataclasses.asdict(fitted)},
        [f"wrote {arguments.out} ({size:,} bytes), from {fitted.count} images"],
    )
