"""``data`` and ``whiten``: the images, and the statistics that whiten them."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import Commands, add_command, add_json_option, file_to_write, print_json, say

if TYPE_CHECKING:
    from ..cifar import CIFAR10


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(commands, "data", "check CIFAR-10 or CIFAR-100, or download it", _data)
    _add_data_options(parser)
    parser.add_argument("--download", action="store_true", help="fetch it (170 MB) if missing")
    add_json_option(parser)

    summary = "fit whitening statistics"
    whiten = commands.add_parser("whiten", help=summary, description=f"{summary.capitalize()}.")
    actions = whiten.add_subparsers(metavar="ACTION", required=True)
    parser = add_command(actions, "fit", "fit them on a data set's training images", _fit)
    parser.add_argument(
        "out",
        metavar="OUT",
        type=file_to_write(),
        help="the .safetensors file to write (19 MB)",
    )
    _add_data_options(parser)
    add_json_option(parser)


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


def _data(arguments: argparse.Namespace) -> None:
    data = _open(arguments, download=arguments.download)
    counts = {"train": len(data.train), "test": len(data.test)}
    if arguments.json:
        print_json({"folder": str(data.folder), **counts, "classes": data.classes})
        return
    say(f"{data.folder}: {counts['train']} training and {counts['test']} test images")


def _fit(arguments: argparse.Namespace) -> None:
    from ..preprocessing import Preprocessor

    preprocessor = Preprocessor.fit(_open(arguments).train.images)
    preprocessor.save(arguments.out)
    size = Path(arguments.out).stat().st_size
    if arguments.json:
        parameters = dataclasses.asdict(preprocessor.fitted_with)
        print_json({"file": arguments.out, "bytes": size, **parameters})
        return
    say(f"wrote {arguments.out} ({size:,} bytes), from {preprocessor.fitted_with.count} images")
