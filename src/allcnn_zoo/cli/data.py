"""``data`` and ``whiten``: the images, and the statistics that whiten them."""

import argparse
import dataclasses
from pathlib import Path

from .shared import Commands, add_command, add_json_option, print_json


def register(commands: Commands) -> None:
    """Add this family's commands."""
    parser = add_command(commands, "data", "check CIFAR-10, or download it", _data)
    parser.add_argument("--data", metavar="DIR", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--download", action="store_true", help="fetch it (170 MB) if missing")
    add_json_option(parser)

    whiten = commands.add_parser(
        "whiten", help="fit the whitening statistics", description="Whitening statistics."
    )
    actions = whiten.add_subparsers(metavar="ACTION", required=True)
    parser = add_command(actions, "fit", "fit them on CIFAR-10's training images", _fit)
    parser.add_argument("out", metavar="OUT", help="the .safetensors file to write (19 MB)")
    parser.add_argument("--data", metavar="DIR", help="folder that holds cifar-10-batches-py")
    add_json_option(parser)


def _data(arguments: argparse.Namespace) -> None:
    from ..architectures import CIFAR10_CLASSES
    from ..cifar import CIFAR10

    data = CIFAR10(arguments.data, download=arguments.download)
    counts = {"train": len(data.train), "test": len(data.test)}
    if arguments.json:
        print_json({"folder": str(data.folder), **counts, "classes": CIFAR10_CLASSES})
        return
    print(f"{data.folder}: {counts['train']} training and {counts['test']} test images")


def _fit(arguments: argparse.Namespace) -> None:
    from ..cifar import CIFAR10
    from ..preprocessing import Preprocessor

    preprocessor = Preprocessor.fit(CIFAR10(arguments.data).train.images)
    preprocessor.save(arguments.out)
    size = Path(arguments.out).stat().st_size
    if arguments.json:
        parameters = dataclasses.asdict(preprocessor.fitted_with)
        print_json({"file": arguments.out, "bytes": size, **parameters})
        return
    print(f"wrote {arguments.out} ({size:,} bytes), from {preprocessor.fitted_with.count} images")
