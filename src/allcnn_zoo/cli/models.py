"""Networks: ``list``, ``predict``, ``eval``, and pictures by ``explain`` and ``features``."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DatasetError, HubError, ImageError
from ..machine import PRECISIONS
from .shared import WEIGHTS, Commands, Result, fields_of, folder_to_write, one_voice, option, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image
    from torch import Tensor

    from ..classifier import Classifier
    from ..explanation.attribution import Method
    from ..images import ImageLike
    from ..weights import Metadata, Weights

commands = Commands()
_IMAGES_OF_CIFAR = (
    option("--data DIR", "folder that holds the data set's folder"),
    option("--split", "images to use", "test", choices=("test", "train")),
)
_NETWORK = (
    WEIGHTS,
    option("--device DEVICE", "where to run: cpu, cuda or mps (cpu)"),
    option("--batch-size N", "images per micro-batch", 32),
)
_CLASSIFIER = (  # the arguments of `Classifier.from_pretrained`
    *_NETWORK,
    option(
        "--precision",
        "arithmetic; auto: bfloat16 if the processor has it, else float32",
        "float32",
        choices=PRECISIONS,
    ),
    option(
        "--engine",
        "what runs the network; auto: the fastest one installed",
        "auto",
        choices=("auto", "torch", "openvino", "onnxruntime"),
    ),
    option("--threads N", "CPU threads (as many as PyTorch uses)"),
)
_WIDEST_MATRIX = 20  # classes; of more, the confusion matrix is in --json only


@commands.add(
    "list",
    "list networks and published weights",
    option("pattern", "glob pattern of network names", "*", nargs="?"),
)
def _list(pattern: str) -> Result:
    from ..architectures import Architecture
    from ..weights import list_models, list_weights

    report: dict[str, list[dict[str, Any]]] = {}
    rows, notes = [], []
    for name in list_models(pattern):
        report[name] = []
        parameters = f"{Architecture(name).count_parameters():,}".rjust(len("parameters"))
        for each in list_weights(name):
            figure = f"{each.metrics['top1']:.2f} %"
            paper = "-" if each.paper_top1 is None else f"{each.paper_top1:.2f} %"
            size = f"{each.size / 1e6:.1f} MB" if each.size else "-"
            source = "yes" if each.measured_by_us else "no"
            row = (name, parameters, each.tag, each.dataset, each.protocol, figure, source)
            rows.append((*row, paper, size))
            tested = None if each.bundled else _self_test_of(each)
            report[name].append({**fields_of(each), "self_test": tested})
            if tested:
                notes.append(
                    f"{each.name}: self-test on arrival {tested['accuracy']:.1%} of"
                    f" {tested['images']} training images, preprocessing {tested['preprocessing']}"
                )
    header = ("network", "parameters", "weights", "data set", "protocol", "top-1")
    return Result(report, [*table((*header, "measured by us", "paper", "size"), rows), *notes])


def _self_test_of(record: "Weights") -> dict[str, Any] | None:
    """The results of the self-test of downloaded weights, if they are in the cache."""
    from ..hub import Cache
    from ..weights import converted_name

    with contextlib.suppress(HubError, CheckpointError):  # an unreadable cache counts as empty
        for entry in Cache().entries():
            if entry.key == converted_name(record.tag):
                from ..checkpoint import read_metadata  # it needs PyTorch

                found = read_metadata(entry.path)
                test = found.metrics.get("self_test")
                return test and {**test, "preprocessing": found.preprocessing}
    return None


@commands.add(
    "predict",
    "classify images",
    option(
        "images",
        "image files of any size, folders, quoted globs ('pets/**/*.jpg'), or - for standard input",
        nargs="+",
        metavar="IMG",
    ),
    *_CLASSIFIER,
    option("--top-k N", "classes to show", 3),
)
def _predict(images: "list[str]", top_k: int, **options: Any) -> Result:
    names, batch, error = _decode(_find(images))
    classifier = _open_classifier(**options)
    predictions = list(zip(names, classifier([*batch], top_k=top_k), strict=True))
    reports = [{"image": name, **fields_of(found)} for name, found in predictions]
    rows = [
        (name, *(f"{label} {probability:6.1%}" for label, probability in found.top))
        for name, found in predictions
    ]
    header = ("image", *(f"#{rank}" for rank in range(1, len(rows[0]))))
    return Result(
        {**_describe(classifier), "images": reports},
        [f"weights: {classifier.weights.tag}", *table(header, rows)],
        error,
    )


def _find(words: "Sequence[str]") -> "Iterator[tuple[str, ImageLike]]":
    """Find the images that the command line names: pairs of a name and what to read."""
    import glob

    from ..images import find_images

    for word in words:
        path = Path(word)
        if word == "-":
            yield word, getattr(sys.stdin, "buffer", b"")  # it is None if it was closed
        elif path.is_dir():
            # A folder without images stands for itself, and then cannot be read.
            yield from ((str(each), each) for each in find_images(path) or [path])
        elif glob.has_magic(word) and not path.exists():
            yield from ((each, each) for each in sorted(glob.glob(word, recursive=True)) or [word])  # noqa: PTH207
        else:
            yield word, word


def _decode(
    images: "Iterable[tuple[str, ImageLike]]",
) -> "tuple[list[str], Tensor, ImageError | None]":
    """Decode images; leave out those that cannot be read, and return an error that names them.

    Raises:
        ImageError: None can be read.
    """
    import torch

    from ..images import to_batch

    names, batches, failures = [], [], []
    for name, image in images:
        try:
            batches.append(to_batch(image))
            names.append(name)
        except ImageError as error:  # noqa: PERF203
            failures.append(error)
    if not batches and len(failures) == 1:
        raise failures[0]
    what = f"images left out: {len(failures)}" if batches else "none of the images can be read"
    left_out = ImageError("\n".join([what, *map(str, failures)]))
    if not batches:
        raise left_out
    return names, torch.cat(batches), left_out if failures else None


def _open_classifier(weights: str, **options: Any) -> "Classifier":
    """Open the classifier that the options of `_CLASSIFIER` ask for."""
    from ..classifier import Classifier

    return Classifier.from_pretrained(weights, **options)


def _describe_weights(weights: "Metadata") -> dict[str, Any]:
    """Name the weights that a report is about, as JSON values.

    The training recipe, which is most of the provenance, is left to ``inspect``.
    """
    provenance = {key: value for key, value in weights.provenance.items() if key != "recipe"}
    return {"tag": weights.tag, "provenance": provenance}


def _describe(classifier: "Classifier") -> dict[str, Any]:
    return {
        "weights": _describe_weights(classifier.weights),
        "engine": classifier.engine,
        "precision": classifier.precision,
    }


@commands.add(
    "eval",
    "measure accuracy on the data set of the classes, or on a folder of images",
    option(
        "folder",
        "folder with one subfolder of images per class (default: CIFAR-10 or CIFAR-100)",
        nargs="?",
        metavar="FOLDER",
    ),
    *_CLASSIFIER,
    *_IMAGES_OF_CIFAR,
    option("--limit N", "use only N images, evenly spaced (all)"),
)
@one_voice()
def _eval(
    folder: str | None, data: str | None, split: str, limit: int | None, **options: Any
) -> Result | None:
    from ..distributed import launched
    from ..evaluation import evaluate

    with launched() as world:
        classifier, images, labels, error = world.agree(
            lambda: _open(folder, data, split, limit, **options)
        )
        found = evaluate(classifier, images, labels, progress=True, world=world)
    if not world.is_first:
        return None
    source = {"folder": folder} if folder else {"split": split}
    is_narrow = len(classifier.classes) <= _WIDEST_MATRIX
    header = ("class", "accuracy", *(name[:5] for name in classifier.classes if is_narrow))
    rows = [
        (name, f"{accuracy:7.2%}" if any(counts) else "-", *(counts if is_narrow else ()))
        for (name, accuracy), counts in zip(found.per_class.items(), found.confusion, strict=True)
    ]
    lines = [
        f"weights     {classifier.weights.tag}",
        f"engine      {classifier.engine}, {classifier.precision}",
        f"images      {found.images} ({folder or split})",
        f"accuracy    {found.accuracy:.2%}   error {found.error:.2%}",
        f"NLL         {found.nll:.4f}   ECE {found.ece:.2%}",
        f"time        {found.seconds:.1f} s   {found.images / found.seconds:.0f} images/s",
        "",
        *table(header, rows),
    ]
    report = {**_describe(classifier), **source, **found.to_json()}
    return Result(report, lines, error)


def _open(
    folder: str | None, data: str | None, split: str, limit: int | None, **options: Any
) -> "tuple[Classifier, npt.NDArray[np.uint8], npt.NDArray[np.int64], ImageError | None]":
    """Open the classifier and the labeled images, with an error that names those left out."""
    import numpy as np

    classifier = _open_classifier(**options)
    if not folder:
        from ..cifar import dataset_of

        dataset = dataset_of(classifier.classes)
        if dataset is None:
            raise DatasetError(
                "these weights have other classes than cifar10 and cifar100; give a FOLDER that has"
                " a subfolder of images for each class"
            )
        found = getattr(dataset(data), split)
        chosen = _spread(len(found), limit)
        return classifier, found.images[chosen], found.labels[chosen], None
    from ..evaluation import label_folder

    paths, labels = label_folder(folder, classifier.classes)
    chosen = _spread(len(paths), limit)
    names, batch, error = _decode((str(place), paths[place]) for place in chosen)
    return classifier, batch.numpy(), labels[np.array(names, np.int64)], error


def _spread(count: int, limit: int | None) -> "npt.NDArray[np.int64]":
    """Indices of at most `limit` of `count` items, spread evenly."""
    import numpy as np

    few = min(count, limit or count)
    return np.arange(few, dtype=np.int64) * count // few


# Pictures.

_OUT = option("--out DIR", "folder for the pictures", required=True, type=folder_to_write)


@commands.add(
    "explain",
    "draw which parts of images drive a prediction",
    option("images", "image files of any size", nargs="+", metavar="IMG"),
    _OUT,
    option("--class NAME", "class to explain (the most probable one)", dest="target"),
    option(
        "--method",
        "how attributions pass back through a ReLU",
        "guided",
        choices=("guided", "deconvnet", "gradient"),
    ),
    *_CLASSIFIER,
)
def _explain(
    images: list[str], out: str, target: str | None, method: "Method", **options: Any
) -> Result:
    from ..explanation import draw_explanation

    classifier = _open_classifier(**options)
    names = _distinct_names(images, method)
    reports = []
    for path, name, prediction in zip(images, names, classifier(images), strict=True):
        shown = prediction.label if target is None else target
        picture = draw_explanation(classifier, path, shown, method=method, title=Path(path).name)
        found = {"image": path, "picture": _write(picture, out, name), "class": shown}
        reports.append({**found, **fields_of(prediction)})
    keys = ("image", "label", "class", "picture")
    rows = [[report[key] for key in keys] for report in reports]
    return Result(
        {"weights": _describe_weights(classifier.weights), "method": method, "images": reports},
        [
            f"weights: {classifier.weights.tag}",
            *table(("image", "prediction", "explained", "picture"), rows),
        ],
    )


@commands.add(
    "features",
    "draw what the feature maps of each layer respond to",
    _OUT,
    *_IMAGES_OF_CIFAR,
    option("--maps N", "feature maps per layer", 12),
    option("--top-k N", "images per feature map", 8),
    *_NETWORK,
)
def _features(
    data: str | None, split: str, maps: int, top_k: int, out: str, batch_size: int, **options: Any
) -> Result:
    from ..cifar import CIFAR10, dataset_of
    from ..explanation import draw_filters, draw_layer, top_activations

    classifier = _open_classifier(engine="torch", **options)
    dataset = dataset_of(classifier.classes) or CIFAR10
    images = getattr(dataset(data), split).images
    model = classifier.model.to(options["device"] or "cpu")
    # Before the long part, which would be lost if the folder could not be made.
    Path(out).mkdir(parents=True, exist_ok=True)
    found = top_activations(model, images, k=top_k, batch_size=batch_size, progress=True)
    written = {"filters": _write(draw_filters(model), out, "filters.png")}
    for layer, top in found.items():
        picture = draw_layer(model, images, top, maps=maps)
        written[layer] = _write(picture, out, f"{layer}.png")
    report = {"weights": _describe_weights(classifier.weights), "split": split}
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


def _distinct_names(images: list[str], method: str) -> list[str]:
    """Name a file for each picture: images of the same name in two folders get a number."""
    names: list[str] = []
    for image in images:
        name, number = f"{Path(image).stem}-{method}.png", 2
        while name in names:
            name, number = f"{Path(image).stem}-{number}-{method}.png", number + 1
        names.append(name)
    return names
