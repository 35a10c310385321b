"""``explain`` and ``features``: what drives the network, as pictures."""

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import (
    Commands,
    add_command,
    add_json_option,
    add_model_options,
    add_network_options,
    describe_weights,
    open_classifier,
    positive_int,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def register(commands: Commands) -> None:
    """Add this family's commands."""
    parser = add_command(commands, "explain", "draw what in images drives the network", _explain)
    parser.add_argument("images", nargs="+", metavar="IMG", help="image files of any size")
    _add_out_option(parser)
    parser.add_argument(
        "--class",
        dest="target",
        metavar="NAME",
        help="the class to explain (default: each image's most probable)",
    )
    parser.add_argument(
        "--method",
        choices=("guided", "deconvnet", "gradient"),
        default="guided",
        help="how signals go back through a ReLU (guided)",
    )
    add_model_options(parser)
    add_json_option(parser)

    parser = add_command(
        commands, "features", "draw what each layer looks for in CIFAR-10", _features
    )
    _add_out_option(parser)
    parser.add_argument("--data", metavar="DIR", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="(test)")
    parser.add_argument(
        "--maps", type=positive_int, default=12, metavar="N", help="feature maps of a layer (12)"
    )
    parser.add_argument(
        "--top-k", type=positive_int, default=8, metavar="K", help="images of a feature map (8)"
    )
    add_network_options(parser)
    add_json_option(parser)


def _add_out_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the pictures")


def _explain(arguments: argparse.Namespace) -> None:
    from ..explanation import draw_explanation

    classifier = open_classifier(arguments)
    classifier.model.to(arguments.device or "cpu")
    predictions = classifier(arguments.images)
    names = _distinct_names(arguments.images, arguments.method)
    reports = []
    for path, name, prediction in zip(arguments.images, names, predictions, strict=True):
        target = prediction.label if arguments.target is None else arguments.target
        picture = draw_explanation(
            classifier, path, target, method=arguments.method, title=Path(path).name
        )
        written = _write(picture, arguments.out, name)
        reports.append(
            {"image": path, "picture": written, "class": target, **dataclasses.asdict(prediction)}
        )
    if arguments.json:
        weights = describe_weights(classifier.weights)
        print_json({"weights": weights, "method": arguments.method, "images": reports})
        return
    print(f"weights: {classifier.weights.tag}")
    keys = ("image", "label", "class", "picture")
    rows = [[report[key] for key in keys] for report in reports]
    print_table(("image", "prediction", "explained", "picture"), rows)


def _features(arguments: argparse.Namespace) -> None:
    from ..cifar import CIFAR10
    from ..classifier import Classifier
    from ..explanation import draw_filters, draw_layer, top_activations

    data = CIFAR10(arguments.data)
    classifier = Classifier.from_pretrained(arguments.weights, device=arguments.device)
    model = classifier.model.to(arguments.device or "cpu")
    images = (data.test if arguments.split == "test" else data.train).images
    _make_folder(arguments.out)  # before the long part, which would be lost without it
    found = top_activations(
        model,
        images,
        k=arguments.top_k,
        batch_size=arguments.batch_size,
        progress=True,
    )
    written = {"filters": _write(draw_filters(model), arguments.out, "filters.png")}
    for layer, top in found.items():
        picture = draw_layer(model, images, top, maps=arguments.maps)
        written[layer] = _write(picture, arguments.out, f"{layer}.png")
    if arguments.json:
        weights = describe_weights(classifier.weights)
        counts = {"split": arguments.split, "images": len(images)}
        print_json({"weights": weights, **counts, "pictures": written})
        return
    print(f"weights: {classifier.weights.tag}   images: {len(images)} ({arguments.split})")
    print_table(("layer", "picture"), written.items())


def _make_folder(folder: str) -> None:
    """Make the folder for the pictures, if need be."""
    Path(folder).mkdir(parents=True, exist_ok=True)


def _write(picture: "Image", folder: str, name: str) -> str:
    """Where the picture was written."""
    from ..pictures import png
    from ..storage import write_atomically

    _make_folder(folder)
    path = Path(folder) / name
    write_atomically(path, png(picture))
    return str(path)


def _distinct_names(images: Sequence[str], method: str) -> list[str]:
    """A file name for each picture, never that of another picture."""
    names: list[str] = []
    for image in images:
        stem = Path(image).stem
        further = (f"{stem}-{number}-{method}.png" for number in itertools.count(2))
        candidates = itertools.chain([f"{stem}-{method}.png"], further)
        names.append(next(name for name in candidates if name not in names))
    return names
