"""``explain`` and ``features``: pictures of what the network responds to."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    CLASSIFIER,
    IMAGES_OF_CIFAR10,
    NETWORK,
    Commands,
    Result,
    describe_weights,
    folder_to_write,
    open_classifier,
    option,
    table,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..explanation.attribution import Method

commands = Commands()
_OUT = option("--out DIR", "folder for the pictures", required=True, type=folder_to_write)


@commands.add(
    "explain",
    "draw which parts of images drive a prediction",
    option("images", "image files of any size", nargs="+", metavar="IMG"),
    _OUT,
    option("--class NAME", "class to explain (each image's most probable)", dest="target"),
    option(
        "--method",
        "how attributions pass back through a ReLU",
        "guided",
        choices=("guided", "deconvnet", "gradient"),
    ),
    *CLASSIFIER,
)
def _explain(
    images: list[str], out: str, target: str | None, method: "Method", **options: Any
) -> Result:
    from ..explanation import draw_explanation

    classifier = open_classifier(**options)
    names = _distinct_names(images, method)
    reports = []
    for path, name, prediction in zip(images, names, classifier(images), strict=True):
        shown = prediction.label if target is None else target
        picture = draw_explanation(classifier, path, shown, method=method, title=Path(path).name)
        found = {"image": path, "picture": _write(picture, out, name), "class": shown}
        reports.append({**found, **dataclasses.asdict(prediction)})
    keys = ("image", "label", "class", "picture")
    rows = [[report[key] for key in keys] for report in reports]
    return Result(
        {"weights": describe_weights(classifier.weights), "method": method, "images": reports},
        [
            f"weights: {classifier.weights.tag}",
            *table(("image", "prediction", "explained", "picture"), rows),
        ],
    )


@commands.add(
    "features",
    "draw what the feature maps of each layer respond to",
    _OUT,
    *IMAGES_OF_CIFAR10,
    option("--maps N", "feature maps of a layer", 12),
    option("--top-k N", "images of a feature map", 8),
    *NETWORK,
)
def _features(
    weights: str,
    device: str | None,
    batch_size: int,
    data: str | None,
    split: str,
    maps: int,
    top_k: int,
    out: str,
) -> Result:
    from ..cifar import CIFAR10
    from ..explanation import draw_filters, draw_layer, top_activations

    images = getattr(CIFAR10(data), split).images
    classifier = open_classifier(weights, device=device, engine="torch")
    model = classifier.model.to(device or "cpu")
    # Before the long part, which would be lost if the folder could not be made.
    Path(out).mkdir(parents=True, exist_ok=True)
    found = top_activations(model, images, k=top_k, batch_size=batch_size, progress=True)
    written = {"filters": _write(draw_filters(model), out, "filters.png")}
    for layer, top in found.items():
        picture = draw_layer(model, images, top, maps=maps)
        written[layer] = _write(picture, out, f"{layer}.png")
    report = {"weights": describe_weights(classifier.weights), "split": split}
    return Result(
        {**report, "images": len(images), "pictures": written},
        [
            f"weights: {classifier.weights.tag}   images: {len(images)} ({split})",
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
