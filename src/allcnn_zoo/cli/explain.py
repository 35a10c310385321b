"""``explain`` and ``features``: pictures of what the network responds to."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import (
    Commands,
    Result,
    add_command,
    add_data_options,
    add_model_options,
    add_network_options,
    describe_weights,
    folder_to_write,
    open_classifier,
    table,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "explain", "draw which parts of images drive a prediction", _explain
    )
    parser.add_argument("images", nargs="+", metavar="IMG", help="image files of any size")
    parser.option("--out DIR", "folder for the pictures", required=True, type=folder_to_write)
    parser.option("--class NAME", "class to explain (each image's most probable)", dest="target")
    methods = ("guided", "deconvnet", "gradient")
    parser.option(
        "--method", "how attributions pass back through a ReLU", "guided", choices=methods
    )
    add_model_options(parser)

    parser = add_command(
        commands, "features", "draw what the feature maps of each layer respond to", _features
    )
    parser.option("--out DIR", "folder for the pictures", required=True, type=folder_to_write)
    add_data_options(parser)
    parser.option("--maps N", "feature maps of a layer", 12)
    parser.option("--top-k N", "images of a feature map", 8)
    add_network_options(parser)


def _explain(arguments: argparse.Namespace) -> Result:
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
    keys = ("image", "label", "class", "picture")
    rows = [[report[key] for key in keys] for report in reports]
    weights = describe_weights(classifier.weights)
    return Result(
        {"weights": weights, "method": arguments.method, "images": reports},
        [
            f"weights: {classifier.weights.tag}",
            *table(("image", "prediction", "explained", "picture"), rows),
        ],
    )


def _features(arguments: argparse.Namespace) -> Result:
    from ..cifar import CIFAR10
    from ..classifier import Classifier
    from ..explanation import draw_filters, draw_layer, top_activations

    data = CIFAR10(arguments.data)
    classifier = Classifier.from_pretrained(
        arguments.weights, device=arguments.device, engine="torch"
    )
    model = classifier.model.to(arguments.device or "cpu")
    images = (data.test if arguments.split == "test" else data.train).images
    # Before the long part, which would be lost if the folder could not be made.
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    found = top_activations(
        model, images, k=arguments.top_k, batch_size=arguments.batch_size, progress=True
    )
    written = {"filters": _write(draw_filters(model), arguments.out, "filters.png")}
    for layer, top in found.items():
        picture = draw_layer(model, images, top, maps=arguments.maps)
        written[layer] = _write(picture, arguments.out, f"{layer}.png")
    weights = describe_weights(classifier.weights)
    counts = {"split": arguments.split, "images": len(images)}
    return Result(
        {"weights": weights, **counts, "pictures": written},
        [
            f"weights: {classifier.weights.tag}   images: {len(images)} ({arguments.split})",
            *table(("layer", "picture"), written.items()),
        ],
    )


def _write(picture: "Image", folder: str, name: str) -> str:
    """Write a picture; give its path."""
    from ..explanation.drawing import png
    from ..storage import write_atomically

    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(picture))
    return str(path)


def _distinct_names(images: Sequence[str], method: str) -> list[str]:
    """Name a file for each picture: images of the same name in two folders get a number."""
    names: list[str] = []
    for image in images:
        name, number = f"{Path(image).stem}-{method}.png", 2
        while name in names:
            name, number = f"{Path(image).stem}-{number}-{method}.png", number + 1
        names.append(name)
    return names
